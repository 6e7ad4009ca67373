"""Writing figures: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch_semimarkov.errors import ConfigError
from torch_semimarkov.given import as_number, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Write a figure in the format that the path ends in.

    The file appears whole or not at all; an older file of that name is replaced at the end.

    Args:
        figure: a matplotlib figure.
        path: ends in .png, .svg or .pdf; its folder exists.
        dpi: dots per inch of a .png, > 0.

    Returns:
        The path.

    Raises:
        ConfigError: no figure, an unknown ending, no such folder, or a dpi out of its range.
    """
    if not hasattr(figure, "savefig"):
        raise ConfigError(f"figure must be a figure of matplotlib, got {shown(figure)}")
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"path must be text or a path, got {shown(path)}")
    if not 0 < as_number("dpi", dpi) < float("inf"):
        raise ConfigError(f"dpi must be > 0, got {dpi}")
    target = Path(path)
    ending = target.suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"{target}: a picture must end in {', '.join(ENDINGS)}, got {ending!r}")
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: there is no folder {target.parent}")
    handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=ending)
    os.close(handle)
    try:
        # Without a date the same figure gives the same file.
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(ending)
        figure.savefig(draft, format=ending[1:], dpi=dpi, metadata=metadata)
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
