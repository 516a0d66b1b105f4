"""The directory of a run: paths of its files, and atomic writes."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.storage.local_copies import copied
from evaluation.storage.records import CellResult
from fastsal.files import PARTIAL, partial_beside, short_hash, synced, written_whole

__all__ = [
    "ArrayFile",
    "ContentHash",
    "Store",
    "content_hash",
    "remove_partial",
    "spec_id",
    "write_atomically",
    "write_once",
]

# Attempts to read a file that another machine replaces meanwhile.
_READS = 5
# Bytes that are hashed at once: the hash of one large buffer cannot be interrupted.
_HASHED_TOGETHER = 2**26


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
        handle, name = tempfile.mkstemp(prefix=f".partial-{path.name}-", dir=path.parent)
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


class ContentHash:
    """Incremental `content_hash`: SHA-256 over shapes, types and bytes, as 16 hex digits.

    >>> parts = ContentHash()
    >>> parts.begin((3, 2), "|u1")
    >>> parts.update(np.zeros((2, 2), np.uint8))
    >>> parts.update(np.zeros((1, 2), np.uint8))
    >>> parts.digest() == content_hash(np.zeros((3, 2), np.uint8))
    True
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def begin(self, shape: tuple[int, ...], dtype: str) -> None:
        """Start the next array, of this shape and type (a ``dtype.str``)."""
        self._hash.update(f"{dtype}{shape}".encode())

    def update(self, part: NDArray[Any]) -> None:
        """Add the next entries of the array."""
        entries = np.ascontiguousarray(part)
        together = max(1, _HASHED_TOGETHER // max(1, entries[:1].nbytes))
        for start in range(0, len(entries), together):
            self._hash.update(entries[start : start + together].data)

    def digest(self) -> str:
        """The hash of all arrays so far."""
        return self._hash.hexdigest()[:16]


def content_hash(*arrays: NDArray[Any]) -> str:
    """SHA-256 over shapes, types and bytes of arrays, as 16 hex digits.

    >>> content_hash(np.zeros(3)) == content_hash(np.zeros(4))
    False
    """
    hashed = ContentHash()
    for array in arrays:
        hashed.begin(array.shape, array.dtype.str)
        hashed.update(array)
    return hashed.digest()


def spec_id(spec: Mapping[str, Any]) -> str:
    """The id of a specification: SHA-256 over its canonical JSON, as 16 hex digits.

    >>> spec_id({"a": 1, "b": 2}) == spec_id({"b": 2, "a": 1})
    True
    """
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return short_hash(text.encode())


class Store:
    """The directory of one run; a cell is done if its result file is there.

    ``plan.json``; ``data/<id>/`` staged images; ``models/<id>.pt`` weights;
    ``maps/<id>/`` levels; ``activations/<id>/`` activations inside a network;
    ``gallery/<id>.npz`` maps of a few images for the report; ``cells/<id>.json`` one finished
    cell each.

    Args:
        root: the run's directory; made if it is not there. Several machines may share it.
        scratch: a folder on each machine's own disk for the files that trainings read in random
            order, which each machine copies or unpacks for itself; runs may share it. None for
            none.
    """

    def __init__(self, root: Path | str, scratch: Path | str | None = None) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._scratch: Path | None = None
        # Cells whose artefacts go elsewhere than to the run's directory.
        self._homes: dict[str, Path] = {}
        if scratch is not None:
            whose = short_hash(str(self.root.resolve()).encode())
            self._scratch = Path(scratch).absolute() / whose

    def data(self, cell: str) -> Path:
        """Folder of the staged images of a data cell."""
        return self.root / "data" / cell

    def local(self) -> Path:
        """This machine's folder for copies; the run's own without a scratch folder."""
        if self._scratch is None:
            return self.root
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def local_data(self, cell: str) -> Path:
        """Folder of the staged images on this machine, copied there if need be."""
        source, place = self.data(cell), self.local() / "data" / cell
        return source if place == source else copied(source, place)

    def local_levels(self, cell: str, split: str) -> Path:
        """Path of a split's unpacked levels, as `evaluation.masking.level_files` writes them."""
        return self.local() / "maps" / cell / f"{split}.npy"

    def model(self, cell: str) -> Path:
        """Path of the weights of a base cell."""
        return self._home(cell) / "models" / f"{cell}.pt"

    def predictions(self, cell: str) -> Path:
        """Path of the predicted classes of a base cell, by split."""
        return self._home(cell) / "models" / f"{cell}.predictions.npz"

    def maps(self, cell: str) -> Path:
        """Folder of the levels of a maps cell: ``train.zarr`` and ``test.zarr``."""
        return self._home(cell) / "maps" / cell

    def activations(self, cell: str) -> Path:
        """Folder of the activations of a network's scales and of their salient locations."""
        return self.root / "activations" / cell

    def remove_activations(self) -> int:
        """Remove the activations of a complete run, which can be continued without them.

        Returns:
            The bytes that they took.
        """
        folder = self.root / "activations"
        files = (path for path in folder.rglob("*") if path.is_file())
        taken = sum(path.stat().st_size for path in files)
        shutil.rmtree(folder, ignore_errors=True)
        return taken

    def again(self, cell: str) -> Store:
        """A store where one cell makes its artefacts again, beside the run until they are compared.

        Args:
            cell: whose artefacts; everything else is read and written where it is.
        """
        other = copy.copy(self)
        other._homes = {cell: self.again_folder(cell) / "made"}
        return other

    def again_folder(self, cell: str) -> Path:
        """Folder of a cell's artefacts made again; `remove_partial` removes it."""
        return self.root / f".partial-again-{cell}"

    def keep_again(self, cell: str) -> None:
        """Move artefacts made again to their places; a gallery that is there stays."""
        made = self.again(cell)
        for path, place in (
            (made.model(cell), self.model(cell)),
            (made.predictions(cell), self.predictions(cell)),
            (made.gallery(cell), self.gallery(cell)),
            (made.maps(cell), self.maps(cell)),
        ):
            if not path.exists() or (place.is_file() and place == self.gallery(cell)):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.rmtree(place, ignore_errors=True)  # what was left of the old levels
            path.replace(place)

    def _home(self, cell: str) -> Path:
        return self._homes.get(cell, self.root)

    def gallery(self, cell: str) -> Path:
        """Path of the full-precision maps of a few test images."""
        return self._home(cell) / "gallery" / f"{cell}.npz"

    def cell(self, cell: str) -> Path:
        """Path of the result of a cell."""
        return self.root / "cells" / f"{cell}.json"

    def result(self, cell: str) -> CellResult | None:
        """The result of a cell, or None if it has not finished."""
        for attempt in range(_READS):
            try:
                return CellResult.from_json(self.cell(cell).read_text())
            except FileNotFoundError:
                return None
            except OSError as error:
                # On NFS: the file that was opened has been replaced.
                if error.errno != errno.ESTALE or attempt == _READS - 1:
                    raise
        return None

    def results(self) -> Iterator[CellResult]:
        """Every finished cell, in the order of their ids."""
        for path in sorted((self.root / "cells").glob("[!.]*.json")):
            result = self.result(path.stem)
            if result is not None:
                yield result

    def save_result(self, result: CellResult) -> CellResult:
        """Record a finished cell; from here on it is never run again.

        Two attempts at a cell may run at once, where a machine was thought dead: the first recorded
        result stays.

        Returns:
            The recorded result.
        """
        text = result.to_json()
        written = write_once(self.cell(result.id), lambda file: file.write(text.encode()))
        recorded = None if written else self.result(result.id)
        return recorded or result

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
