"""``python -m torch_semimarkov.cli``."""

from torch_semimarkov.cli import main

if __name__ == "__main__":
    main()
