"""Copies of shared folders on this machine's own disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from fastsal.files import PARTIAL

__all__ = ["copied", "locked"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, as a context; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def copied(source: Path, place: Path) -> Path:
    """Copy a finished folder to `place`, whole or not at all, unless an equal copy is there.

    A copy that lacks a file, or has one of another length or time, is replaced: cleaners of
    scratch disks remove single files, and a run's directory may be deleted and made anew.

    Args:
        source: a folder that nobody writes to any more.
        place: folder of the copy.

    Returns:
        `place`.

    Raises:
        OSError: the disk is full, or `place` cannot be written.
    """
    if _files(place) == _files(source):
        return place
    with locked(place.parent):
        if _files(place) != _files(source):
            prefix = f"{PARTIAL}{place.name}-"
            for left in place.parent.glob(f"{prefix}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
            try:
                shutil.copytree(source, partial, ignore=_hidden, dirs_exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
                partial.rename(place)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return place


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and modification time of each file below a folder, by its path there."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            status = path.stat()
            # In whole seconds, which every file system keeps.
            found[name] = status.st_size, int(status.st_mtime)
    return found


def _hidden(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]
