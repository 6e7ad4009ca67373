"""The command line ``torch-semimarkov``."""

from __future__ import annotations

from torch_semimarkov.cli.group import cli


def main() -> None:
    """Entry point: run the command line and exit with its code."""
    cli()


__all__ = ["cli", "main"]
