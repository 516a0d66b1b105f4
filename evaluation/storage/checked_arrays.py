"""Arrays on disk with a hash of each chunk, which is checked when the chunk is first used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.sealed import Unfit, read_sealed, sealed
from evaluation.storage.writing import write_atomically
from fastsal.files import short_hash

__all__ = [
    "CheckedArray",
    "ChunkHashes",
    "check_whole",
    "has_hashes",
    "hashes_path",
    "is_hashed",
    "mapped",
    "open_checked",
]

# Bytes of a chunk: what the first use of one of its entries reads and hashes.
CHUNK_BYTES = 2**20
_DIGITS = 16


def hashes_path(path: Path) -> Path:
    """Path of the hashes of an array's chunks.

    >>> hashes_path(Path("train_images.npy")).name
    'train_images.hash'
    """
    return path.with_suffix(".hash")


class ChunkHashes:
    """The hashes of an array's chunks, made as its entries are written.

    A chunk is as many whole entries as fit into a MiB, at least one; the last one may be shorter.

    Args:
        entry: shape of one entry.
        dtype: type of its numbers.

    >>> made = ChunkHashes((2,), "|u1")
    >>> made.update(np.zeros((3, 2), np.uint8))
    >>> len(made.digests())
    1
    """

    def __init__(self, entry: tuple[int, ...], dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        self._bytes = self._dtype.itemsize * int(np.prod(entry))
        self.entries = max(1, CHUNK_BYTES // max(1, self._bytes))
        self._done: list[str] = []
        self._chunk, self._count = hashlib.sha256(), 0

    def update(self, part: NDArray[Any]) -> None:
        """Take in the next entries."""
        entries = np.ascontiguousarray(part, self._dtype)
        start = 0
        while start < len(entries):
            taken = entries[start : start + self.entries - self._count]
            self._chunk.update(taken.data)
            start, self._count = start + len(taken), self._count + len(taken)
            if self._count == self.entries:
                self._done.append(self._chunk.hexdigest()[:_DIGITS])
                self._chunk, self._count = hashlib.sha256(), 0

    def digests(self) -> list[str]:
        """The hash of each chunk so far."""
        begun = [self._chunk.hexdigest()[:_DIGITS]] if self._count else []
        return [*self._done, *begun]

    def resume(self, digests: Sequence[str], last: NDArray[Any]) -> None:
        """Continue behind the entries of an earlier start.

        Args:
            digests: the hash of each chunk then, from `digests`.
            last: the entries of the last chunk if it is not whole, as they are on disk.

        Raises:
            ValueError: `last` has another hash.
        """
        whole = len(digests) - bool(len(last))
        self._done = list(digests[:whole])
        self._chunk, self._count = hashlib.sha256(), 0
        self.update(last)
        if self.digests() != list(digests):
            raise ValueError("the last entries are not those that were written")

    def write(self, path: Path, of: str, shape: tuple[int, ...]) -> None:
        """Write the hashes beside an array.

        Args:
            path: of the array.
            of: what the array is of, from its specification.
            shape: of the whole array.
        """
        content = {
            "of": of,
            "shape": list(shape),
            "dtype": self._dtype.str,
            "entries": self.entries,
            "chunks": "".join(self.digests()),
        }
        text = sealed(content).encode()
        write_atomically(hashes_path(path), lambda file: file.write(text))


def has_hashes(path: Path) -> bool:
    """True if the hashes of an array's chunks are there."""
    return hashes_path(path).exists()


def is_hashed(path: Path, of: str | None = None) -> bool:
    """True if the hashes of an array's chunks are there and fit.

    Args:
        path: of the array.
        of: what it has to be of; None for whatever the hashes say.
    """
    try:
        said = read_sealed(hashes_path(path)) if has_hashes(path) else {}
    except Unfit:
        return False
    return "chunks" in said and of in (None, said.get("of"))


# Which chunks this process has checked, by the file and its hashes.
_CHECKED: dict[tuple[object, ...], NDArray[np.bool_]] = {}


class _Chunks:
    """The chunks of one array, and which of them were checked."""

    def __init__(
        self, array: NDArray[Any], digests: Sequence[str], entries: int, path: Path | None
    ) -> None:
        self._array, self._digests, self._entries, self._path = array, digests, entries, path
        self._checked = np.zeros(len(digests), np.bool_)
        self.file: tuple[object, ...] | None = None
        if path is not None:
            found = path.stat()
            file = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            self.file = (*file, short_hash("".join(digests).encode()))
            self._checked = _CHECKED.setdefault(self.file, self._checked)

    def check(self, key: object) -> None:
        """Check the chunks of the entries that a key selects, unless they were checked before."""
        if self._checked.all():
            return
        chunks = np.unique(self._entries_of(key) // self._entries)
        for chunk in chunks[~self._checked[chunks]].tolist():
            self._check(chunk)

    def _entries_of(self, key: object) -> NDArray[np.int64]:
        count = len(self._array)
        first = key[0] if isinstance(key, tuple) and key else key
        if isinstance(first, slice):
            taken = range(*first.indices(count))
            if len(taken) == 0:
                return np.empty(0, np.int64)
            low, high = min(taken[0], taken[-1]), max(taken[0], taken[-1])
            return np.arange(low - low % self._entries, high + 1, self._entries)
        if isinstance(first, int | np.integer):
            return np.array([int(first) % max(1, count)])
        if isinstance(first, list | np.ndarray):
            rows = np.asarray(first)
            rows = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
            return rows.astype(np.int64).ravel() % max(1, count)
        return np.arange(0, count, self._entries)  # whatever else it is: all of them

    def _check(self, chunk: int) -> None:
        start = chunk * self._entries
        stop = min(start + self._entries, len(self._array))
        bytes_of = np.ascontiguousarray(self._array[start:stop]).data
        found = hashlib.sha256(bytes_of).hexdigest()[:_DIGITS]
        if found != self._digests[chunk]:
            raise Unfit(
                self._path,
                f"has entries {start} to {stop - 1} of hash {found}: expected those of hash "
                f"{self._digests[chunk]}",
            )
        self._checked[chunk] = True


class CheckedArray(np.ndarray[Any, Any]):
    """An array whose chunks are checked when an index or a NumPy function first reads them.

    What an index returns is a plain array. Functions outside NumPy that take the array whole read
    it unchecked: give them ``array[:]``.
    """

    _chunks: _Chunks | None

    @classmethod
    def of(
        cls, array: NDArray[Any], digests: Sequence[str], entries: int, path: Path | None
    ) -> CheckedArray:
        """A checked view of an array.

        Args:
            array: a memory map.
            digests: the hash of each chunk.
            entries: number of entries of a chunk.
            path: of the file, for messages; None for one without a name.
        """
        checked = array.view(cls)
        checked._chunks = _Chunks(array, digests, entries, path)
        return checked

    @property
    def file(self) -> tuple[object, ...] | None:
        """The same for all arrays of one file with these hashes; None for one without a name."""
        return None if self._chunks is None else self._chunks.file

    def __array_finalize__(self, made_from: object) -> None:
        """Leave derived arrays unchecked: what they read was checked when they were made."""
        self._chunks = None

    def __getitem__(self, key: Any) -> Any:
        """Check the chunks that the key reads."""
        if self._chunks is not None:
            self._chunks.check(key)
        return self.view(np.ndarray)[key]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Check the whole array before a universal function reads it."""
        return getattr(ufunc, method)(*map(_plain, inputs), **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Check the whole array before a function of NumPy reads it."""
        del types
        return function(*_plain(list(args)), **{name: _plain(kwargs[name]) for name in kwargs})


def _plain(value: Any) -> Any:
    """The same without checked arrays, which are checked as a whole."""
    if isinstance(value, CheckedArray):
        return value[:]
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value


def open_checked(path: Path, of: str) -> NDArray[Any]:
    """Memory-map an array whose chunks have hashes; each is checked when it is first used.

    A process checks each chunk of a file once.

    Args:
        path: of the array.
        of: what it is of, as it was given to `ChunkHashes.write`.

    Raises:
        Unfit: another array than was stored, or one without its hashes.
    """
    try:
        said = read_sealed(hashes_path(path))
    except FileNotFoundError as error:
        raise Unfit(path, f"has no {hashes_path(path).name} beside it: expected its hashes") from (
            error
        )
    if said.get("of") != of:
        raise Unfit(path, f"is of {said.get('of')!r}: expected one of {of!r}")
    array = mapped(path)
    if list(array.shape) != said["shape"] or array.dtype.str != said["dtype"]:
        raise Unfit(
            path,
            f"has shape {array.shape} and type {array.dtype.str}: expected "
            f"{tuple(said['shape'])} and {said['dtype']}",
        )
    chunks = said["chunks"]
    digests = [chunks[at : at + _DIGITS] for at in range(0, len(chunks), _DIGITS)]
    return CheckedArray.of(array, digests, said["entries"], path)


def check_whole(path: Path) -> None:
    """Check every chunk of an array whose chunks have hashes.

    Raises:
        Unfit: another array than was stored.
    """
    of = str(read_sealed(hashes_path(path)).get("of")) if has_hashes(path) else ""
    open_checked(path, of)[:]


def mapped(path: Path) -> NDArray[Any]:
    """Memory-map an ``.npy`` file.

    Raises:
        Unfit: no file, or a damaged one.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise Unfit(path, "is missing: expected an array") from error
    except IsADirectoryError as error:
        raise Unfit(path, "is a folder: expected a file") from error
    except OSError:
        raise
    except Exception as error:  # NumPy parses a damaged header as Python
        raise Unfit(path, f"cannot be read ({error}): expected an array") from error
    return array
