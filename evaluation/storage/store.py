"""The directory of a run: paths of its files, and atomic writes."""

from __future__ import annotations

import copy
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.storage.local_copies import copied
from evaluation.storage.records import CellResult
from evaluation.storage.writing import write_atomically, write_once
from fastsal.files import PARTIAL, short_hash

__all__ = ["Store"]

# Attempts to read a file that another machine replaces meanwhile.
_READS = 5


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
        return self.root / f"{PARTIAL}again-{cell}"

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
