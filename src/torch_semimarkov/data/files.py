"""Files written whole or not at all, and archives unpacked the same way."""

from __future__ import annotations

import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torch_semimarkov.errors import FileFormatError, UnsupportedError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without an error.

    For libraries that write by name. The temporary file keeps the ending of ``path``; on an error
    it is removed and whatever stood at ``path`` stays as it was.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        FileFormatError: the folder does not exist, or ``path`` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileFormatError(path, f"cannot be written: the folder {path.parent} does not exist")
    if path.is_dir():
        raise FileFormatError(path, "cannot be written: it is a folder; give the name of a file")
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """An open file that appears at ``path`` when the block ends without an error.

    Args:
        path: the file to write; its folder must exist.
        mode: "w" for text (UTF-8, newlines as written) or "wb" for bytes.

    Raises:
        FileFormatError: the folder does not exist, or ``path`` is a folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "a.txt") as file:
    ...     _ = file.write("whole")
    >>> [(p.name, p.read_text()) for p in folder.iterdir()]
    [('a.txt', 'whole')]
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    with atomic_path(path) as temporary, open(temporary, mode, **text) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def unpack(archive: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Unpack a tar archive (plain, gz, bz2, xz) as ``folder``, whole or not at all.

    Members that would land outside the folder, links that lead out of it and device files are
    refused (``tarfile``'s "data" filter). A folder that exists already is taken as unpacked.

    Args:
        archive: the tar file.
        folder: the folder to make; its parents are made as needed.

    Returns:
        ``folder`` as a path.

    Raises:
        FileFormatError: the archive is missing, damaged, or holds a member that is refused;
            ``folder`` does not exist afterwards.
        UnsupportedError: this Python is too old to unpack safely.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.is_dir():
        return folder
    if not archive.is_file():
        raise FileFormatError(archive, "no such archive")
    if not hasattr(tarfile, "data_filter"):
        raise UnsupportedError("unpacking needs tarfile.data_filter: Python >= 3.10.12 or 3.11.4")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        _take_place(temporary, folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise FileFormatError(archive, f"cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _take_place(temporary: Path, folder: Path) -> None:
    try:
        os.replace(temporary, folder)
    except OSError:
        # Another process unpacked the same archive first: its folder is as good as ours.
        if not folder.is_dir():
            raise
