"""A run's directory: where things lie, and files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.records import CellResult

__all__ = [
    "ArrayFile",
    "Store",
    "content_hash",
    "remove_partial",
    "spec_id",
    "write_atomically",
]

# Bytes that are hashed at once: nothing interrupts the hash of a map of hundreds of gigabytes.
_HASHED_TOGETHER = 2**26


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with a new file beside `path`, then put it in its place in one step.

    A reader sees the old file or the new one. After a full disk or a kill nothing
    but a file whose name starts with ``.partial-`` can be left, which nobody reads and
    `remove_partial` removes.

    Args:
        path: the final place.
        write: writes the bytes to the open file it is given.

    Raises:
        OSError: the disk is full, or the place cannot be written; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)  # mkstemp's 0600 would hide a shared run from its readers
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed left anywhere in a folder.

    Nobody may be writing there.
    """
    for path in folder.rglob(".partial-*"):
        path.unlink(missing_ok=True)


class ArrayFile:
    """An ``.npy`` file written in parts from the first entry on, there whole or not at all.

    Args:
        path: the final place.
        shape: of the whole array.
        dtype: of its numbers.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
        os.close(handle)
        self._path, self._partial = path, Path(name)
        self._array = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=shape)
        self._written = 0

    def append(self, part: NDArray[Any]) -> None:
        """Write the next entries."""
        self._array[self._written : self._written + len(part)] = part
        self._written += len(part)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Put the file in its place, if every entry was written."""
        complete = failure is None and self._written == len(self._array)
        self._array.flush()
        del self._array
        if complete:
            self._partial.chmod(0o644)
            self._partial.replace(self._path)
        else:
            self._partial.unlink()


def content_hash(*arrays: NDArray[Any]) -> str:
    """SHA-256 over shapes, types and bytes of arrays, as 16 hex digits.

    >>> content_hash(np.zeros(3)) == content_hash(np.zeros(4))
    False
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        entries = np.ascontiguousarray(array)
        together = max(1, _HASHED_TOGETHER // max(1, entries[:1].nbytes))
        for start in range(0, len(entries), together):
            digest.update(entries[start : start + together].data)
    return digest.hexdigest()[:16]


def spec_id(spec: Mapping[str, Any]) -> str:
    """The id of a specification: SHA-256 over its canonical JSON, as 16 hex digits.

    >>> spec_id({"a": 1, "b": 2}) == spec_id({"b": 2, "a": 1})
    True
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The directory of one run; the directory itself is the truth about what is done.

    ``plan.json``; ``data/<id>/`` staged images; ``models/<id>.pt`` weights;
    ``maps/<id>/`` levels; ``activations/<id>/`` activations inside a network;
    ``gallery/<id>.npz`` maps of a few images for the report; ``cells/<id>.json`` one finished
    cell each.

    Args:
        root: the run's directory; made if it is not there.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)

    def data(self, cell: str) -> Path:
        """Where the images of a data cell are staged."""
        return self.root / "data" / cell

    def model(self, cell: str) -> Path:
        """Where the weights of a base cell are."""
        return self.root / "models" / f"{cell}.pt"

    def predictions(self, cell: str) -> Path:
        """Where the predicted classes of a base cell are, by split."""
        return self.root / "models" / f"{cell}.predictions.npz"

    def maps(self, cell: str) -> Path:
        """Where the levels of a maps cell are: ``train.zarr`` and ``test.zarr``."""
        return self.root / "maps" / cell

    def activations(self, cell: str) -> Path:
        """Where the activations of a network's scales are, and which locations are salient."""
        return self.root / "activations" / cell

    def gallery(self, cell: str) -> Path:
        """Where the full-precision maps of a few test images are."""
        return self.root / "gallery" / f"{cell}.npz"

    def cell(self, cell: str) -> Path:
        """Where the result of a cell is."""
        return self.root / "cells" / f"{cell}.json"

    def result(self, cell: str) -> CellResult | None:
        """The result of a cell, or None if it has not finished."""
        path = self.cell(cell)
        return CellResult.from_json(path.read_text()) if path.exists() else None

    def results(self) -> Iterator[CellResult]:
        """Every finished cell, in the order of their ids."""
        for path in sorted((self.root / "cells").glob("[!.]*.json")):
            yield CellResult.from_json(path.read_text())

    def save_result(self, result: CellResult) -> None:
        """Record a finished cell; from here on it is never run again."""
        text = result.to_json()
        write_atomically(self.cell(result.id), lambda file: file.write(text.encode()))

    def save_model(self, cell: str, state: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights of a base cell."""
        write_atomically(self.model(cell), lambda file: torch.save(dict(state), file))

    def load_model(self, cell: str) -> dict[str, torch.Tensor]:
        """The weights of a base cell, on the CPU."""
        state: dict[str, torch.Tensor] = torch.load(
            self.model(cell), map_location="cpu", weights_only=True
        )
        return state

    def save_arrays(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep named arrays as one ``.npz`` file."""
        write_atomically(
            path,
            lambda file: np.savez_compressed(file, allow_pickle=False, **arrays),
        )
