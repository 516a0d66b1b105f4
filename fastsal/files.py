"""Files that are written whole or not at all, and short hashes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["PARTIAL", "partial_beside", "short_hash", "synced", "written_together", "written_whole"]

# How the names of files begin that a killed writer left behind; no reader opens them.
PARTIAL = ".partial-"


@contextmanager
def partial_beside(path: Path) -> Iterator[Path]:
    """A new, empty file in the folder of `path`, removed when the block ends unless it was moved.

    Its name ends as that of `path` does, since writers of pictures and videos go by it.

    Args:
        path: The final place. Its folder is made if it is not there.

    Raises:
        OSError: If the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        partial.chmod(0o644)  # mkstemp's 0600 would hide the file from other users
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file that takes the place of `path` in one step when the block ends without an error.

    A reader sees the old file or the new one, also after a full disk or a kill.

    Args:
        path: The final place.

    Raises:
        OSError: If the disk is full or the place cannot be written; `path` is as it was.

    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "a.txt"
    >>> with written_whole(path) as partial:
    ...     _ = partial.write_text("whole")
    ...     path.exists()
    False
    >>> path.read_text(), os.listdir(folder.name)
    ('whole', ['a.txt'])
    >>> folder.cleanup()
    """
    with partial_beside(path) as partial:
        yield partial
        synced(partial)
        partial.replace(path)


@contextmanager
def written_together(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """New files that take the places of `paths` when the block ends without an error.

    They have the names of `paths` in a folder of their own beside them, and so can refer to each
    other. They are moved in the order of `paths`: the one that refers to the others comes last.

    Args:
        paths: The final places, in one folder that exists.

    Raises:
        OSError: If the disk is full or a place cannot be written.

    >>> folder = tempfile.TemporaryDirectory()
    >>> paths = Path(folder.name) / "a.bin", Path(folder.name) / "a.xml"
    >>> with written_together(*paths) as partial:
    ...     written = [one.write_text(one.name) for one in partial]
    >>> sorted(os.listdir(folder.name))
    ['a.bin', 'a.xml']
    >>> folder.cleanup()
    """
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=paths[-1].parent) as folder:
        partial = tuple(Path(folder) / path.name for path in paths)
        yield partial
        for one, path in zip(partial, paths, strict=True):
            synced(one)
            one.replace(path)


def synced(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def short_hash(content: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of some bytes.

    >>> short_hash(b"")
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(content).hexdigest()[:16]
