"""A resumable array: an ``.npy`` file that is appended to, and continued after a kill."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ResumableArray"]


class ResumableArray:
    """An ``.npy`` file that is appended to beside its final place, and moved there when complete.

    Entries are written to the file, not to a memory map, so that written pages do not count as
    this process's memory.

    Args:
        path: the final place.
        entry: shape of one entry.
        dtype: type of its numbers.
        kept: number of entries to keep from before; the file is cut off behind them.

    Raises:
        OSError: fewer than `kept` entries are there.
    """

    def __init__(self, path: Path, entry: tuple[int, ...], dtype: str, kept: int = 0) -> None:
        self._path, self._growing = path, unfinished_path(path)
        self._entry, self._dtype = entry, np.dtype(dtype)
        self._count = kept
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._growing.open("r+b" if kept else "w+b")
        header = self._header()
        end = len(header) + kept * self._dtype.itemsize * int(np.prod(entry))
        if self._growing.stat().st_size < end and kept:
            self._file.close()
            raise OSError(f"{self._growing} has fewer than {kept} entries")
        self._file.truncate(end)
        self._file.write(header)
        self._file.seek(end)

    def append(self, part: NDArray[Any]) -> None:
        """Write the next entries."""
        self._file.write(np.ascontiguousarray(part, dtype=self._dtype).data)
        self._count += len(part)

    def sync(self) -> None:
        """Wait until all entries are on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Move the file to its place, with as many entries as were written."""
        self._file.seek(0)
        self._file.write(self._header())
        self.sync()
        self._file.close()
        self._growing.replace(self._path)

    def close(self) -> None:
        """Close the file; a later array may continue it."""
        self._file.close()

    def _header(self) -> bytes:
        # NumPy pads a header so that the first axis may grow without moving the entries.
        stream = io.BytesIO()
        described = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._entry),
        }
        np.lib.format.write_array_header_1_0(stream, described)
        return stream.getvalue()


def unfinished_path(path: Path) -> Path:
    """Path of an array that is not complete.

    >>> unfinished_path(Path("train_images.npy")).name
    'train_images.npy.growing'
    """
    return path.with_name(path.name + ".growing")
