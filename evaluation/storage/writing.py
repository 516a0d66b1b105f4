"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from fastsal.files import PARTIAL, partial_beside, synced, written_whole

__all__ = ["remove_partial", "write_atomically", "write_once"]


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside `path` and move it there in one step.

    A reader sees the old file or the new one. After a full disk or a kill nothing
    but a file whose name starts with ``.partial-`` can be left, which nobody reads and
    `remove_partial` removes.

    Args:
        path: the final place.
        write: writes the bytes to the open file it is given.

    Raises:
        OSError: the disk is full, or the place cannot be written; `path` is as it was.
    """
    with written_whole(path) as partial, partial.open("wb") as file:
        write(file)


def write_once(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Write a file in one step unless it exists; one of several writers wins.

    Args:
        path: the final place.
        write: writes the bytes to the open file it is given.

    Returns:
        True if this call wrote it.

    Raises:
        OSError: the disk is full, or the place cannot be written.
    """
    with partial_beside(path) as partial:
        with partial.open("wb") as file:
            write(file)
        synced(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            # A file system without hard links: the last of those that come at once wins.
            if path.exists():
                return False
            partial.replace(path)
    return True


def remove_partial(folder: Path) -> None:
    """Remove the partial files of killed writers anywhere in a folder.

    Nobody may be writing there.
    """
    for path in list(folder.rglob(f"{PARTIAL}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
