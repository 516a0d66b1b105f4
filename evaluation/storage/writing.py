"""Files and arrays that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastsal.files import PARTIAL, partial_beside, synced, written_whole

__all__ = ["ArrayFile", "remove_partial", "write_atomically", "write_once"]


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


class ArrayFile:
    """An ``.npy`` file of known shape, appended to, that appears whole or not at all.

    Args:
        path: the final place.
        shape: shape of the whole array.
        dtype: type of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent)
        self._path, self._partial = path, Path(name)
        self._shape, self._dtype, self._written = shape, np.dtype(dtype), 0
        # Written, not mapped: a full disk is then an error, and no signal that ends the process.
        self._file = os.fdopen(handle, "wb")
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, part: NDArray[Any]) -> None:
        """Write the next entries."""
        if part.shape[1:] != self._shape[1:] or self._written + len(part) > self._shape[0]:
            raise ValueError(
                f"entries {self._written} to {self._written + len(part)} of shape "
                f"{part.shape[1:]}: {self._path.name} is for {self._shape[0]} of shape "
                f"{self._shape[1:]}"
            )
        self._file.write(np.ascontiguousarray(part, self._dtype).data)
        self._written += len(part)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Move the file to its place if every entry was written, else remove it."""
        try:
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            if failure is None and self._written == self._shape[0]:
                self._partial.chmod(0o644)
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
