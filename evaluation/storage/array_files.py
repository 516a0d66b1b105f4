"""Array files that are appended to: whole or absent, or continued after a kill."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.checked_arrays import ChunkHashes
from fastsal.files import PARTIAL

__all__ = ["ArrayFile", "ResumableArray", "unfinished_path"]


class ArrayFile:
    """An ``.npy`` file of known shape, appended to, that appears whole or not at all.

    The hashes of its chunks come beside it.

    Args:
        path: the final place.
        shape: shape of the whole array.
        dtype: type of its numbers.
        of: what the array is of, for its hashes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str, of: str) -> None:
        self._of, self._hashes = of, ChunkHashes(shape[1:], dtype)
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
        self._hashes.update(part)
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
                self._hashes.write(self._path, self._of, self._shape)
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)


class ResumableArray:
    """An ``.npy`` file that is appended to beside its final place, and moved there when complete.

    Entries are written to the file, not to a memory map, so that written pages do not count as
    this process's memory.

    Args:
        path: the final place; the hashes of its chunks come beside it.
        entry: shape of one entry.
        dtype: type of its numbers.
        of: what the array is of, for its hashes.
        kept: number of entries to keep from before; the file is cut off behind them.
        digests: the hashes of their chunks then, from `digests`.

    Raises:
        OSError: fewer than `kept` entries are there, or the last of them are others.
    """

    def __init__(
        self,
        path: Path,
        entry: tuple[int, ...],
        dtype: str,
        of: str,
        kept: int = 0,
        digests: Sequence[str] = (),
    ) -> None:
        self._of, self._hashes = of, ChunkHashes(entry, dtype)
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
        if kept:
            self._resume(kept, end, digests)
        self._file.truncate(end)
        self._file.write(header)
        self._file.seek(end)

    def append(self, part: NDArray[Any]) -> None:
        """Write the next entries."""
        self._file.write(np.ascontiguousarray(part, dtype=self._dtype).data)
        self._hashes.update(part)
        self._count += len(part)

    def digests(self) -> list[str]:
        """The hash of each chunk so far."""
        return self._hashes.digests()

    def sync(self) -> None:
        """Wait until all entries are on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Move the file to its place, with as many entries as were written, behind its hashes."""
        self._file.seek(0)
        self._file.write(self._header())
        self.sync()
        self._file.close()
        self._hashes.write(self._path, self._of, (self._count, *self._entry))
        self._growing.replace(self._path)

    def close(self) -> None:
        """Close the file; a later array may continue it."""
        self._file.close()

    def _resume(self, kept: int, end: int, digests: Sequence[str]) -> None:
        begun = kept % self._hashes.entries
        size = self._dtype.itemsize * int(np.prod(self._entry))
        self._file.seek(end - begun * size)
        last = np.frombuffer(self._file.read(begun * size), self._dtype)
        try:
            self._hashes.resume(digests, last.reshape(begun, *self._entry))
        except ValueError as error:
            self._file.close()
            raise OSError(f"{self._growing}: {error}") from error
        self._file.seek(0)

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
