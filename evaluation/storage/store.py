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

from evaluation.storage.checked_arrays import check_whole, has_hashes
from evaluation.storage.checkpoint import Checkpoint, Progress
from evaluation.storage.hashes import content_hash, weights_hash
from evaluation.storage.local_copies import copied
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import Unfit, arrays_in, sealed_arrays, unreadable
from evaluation.storage.set_aside import SET_ASIDE, Notes, set_aside
from evaluation.storage.writing import write_atomically, write_once
from fastsal.files import PARTIAL, short_hash

__all__ = ["Store"]

# Attempts to read a file that another machine replaces meanwhile.
_READS = 5


class Store:
    """The directory of one run; a cell is done if its result file is there.

    Every file carries the hash of its content, or its cell's result has that hash. One that does
    not fit is `evaluation.storage.sealed.Unfit`, and goes to ``set-aside/``.

    ``plan.json``; ``data/<id>/`` staged images; ``models/<id>.pt`` weights;
    ``maps/<id>/`` levels; ``activations/<id>/`` activations inside a network;
    ``gallery/<id>.npz`` maps of a few images for the report; ``unfinished/<id>.pt`` checkpoints;
    ``cells/<id>.json`` one finished cell each.

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

    def checkpoint(self, cell: str, title: str = "") -> Checkpoint:
        """The checkpoint of an unfinished cell.

        Args:
            cell: its id.
            title: of its work in the run's notes, which say how far it is; empty for no notes.
        """
        path = self.root / "unfinished" / f"{cell}.pt"
        return Checkpoint(path, title, self.notes.add if title else None)

    def progress(self, title: str) -> Progress:
        """Progress of a cell that needs no checkpoint, in the run's notes."""
        return Progress(title, self.notes.add)

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
        """The result of a cell, or None if it has not finished.

        Raises:
            Unfit: its file is not what was stored.
        """
        path = self.cell(cell)
        try:
            content = self._read(path)
            result = None if content is None else CellResult.from_json(content)
        except IsADirectoryError as error:
            raise Unfit(path, "is a folder: expected a file") from error
        except ValueError as error:
            raise Unfit(path, str(error)) from error
        if result is not None and result.id != cell:
            raise Unfit(path, f"holds the result of cell {result.id!r}: expected that of {cell!r}")
        return result

    @staticmethod
    def _read(path: Path) -> bytes | None:
        for attempt in range(_READS):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                # On NFS: the file that was opened has been replaced.
                if error.errno != errno.ESTALE or attempt == _READS - 1:
                    raise
        return None

    def results(self) -> Iterator[CellResult]:
        """Every finished cell, in the order of their ids.

        Raises:
            Unfit: a file that is no result, or not what was stored.
        """
        for cell in self.listed("cells", ".json"):
            result = self.result(cell)
            if result is not None:
                yield result

    def listed(self, folder: str, ending: str) -> list[str]:
        """The ids that the names of a folder's files begin with, sorted.

        Args:
            folder: of the run, such as ``"cells"``.
            ending: of the names.
        """
        paths = sorted((self.root / folder).glob(f"[!.]*{ending}"))
        return [path.name.removesuffix(ending) for path in paths]

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
        """The weights of a base cell, on the CPU.

        Raises:
            Unfit: other weights than the cell recorded.
        """
        path = self.model(cell)
        try:
            state: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            found = weights_hash(state)
        except IsADirectoryError as error:
            raise Unfit(path, "is a folder: expected a file") from error
        except OSError:
            raise
        except Exception as error:  # PyTorch's readers raise whatever they stumble over
            raise unreadable(path, error, "weights") from error
        self._compare(cell, path, "model", found)
        return state

    def save_arrays(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep named arrays and their hash as one ``.npz`` file."""
        whole = sealed_arrays(path.name, arrays)
        write_atomically(
            path,
            lambda file: np.savez_compressed(file, allow_pickle=False, **whole),
        )

    def load_arrays(self, path: Path) -> dict[str, NDArray[Any]]:
        """The arrays of `save_arrays`, by name.

        Raises:
            FileNotFoundError: no file.
            Unfit: other arrays than were stored.
        """
        return arrays_in(path, path.name)

    def load_predictions(self, cell: str) -> dict[str, NDArray[np.int64]]:
        """The predicted classes of a cell, by split.

        Raises:
            FileNotFoundError: no file.
            Unfit: others than the cell recorded.
        """
        path = self.predictions(cell)
        predicted = self.load_arrays(path)
        if {"train", "test"} <= predicted.keys():
            found = content_hash(predicted["train"], predicted["test"])
            self._compare(cell, path, "predictions", found)
        return predicted

    def _compare(self, cell: str, path: Path, name: str, found: str) -> None:
        """Compare the hash of an artefact with the recorded one, if there is one."""
        recorded = None if cell in self._homes else self.result(cell)
        said = found if recorded is None else recorded.hashes.get(name, found)
        if said != found:
            raise Unfit(path, f"has the hash {found}: expected {said}, which its cell recorded")

    def set_aside(self, found: Unfit, then: str = "made again where the run needs it") -> str:
        """Move what does not fit out of the way; the run's notes say so.

        Args:
            found: what does not fit, of this run or of this machine's copies.
            then: what will happen to it.

        Returns:
            The sentence of the note; empty if another process was first.
        """
        copies = self._scratch
        local = copies is not None and found.path is not None and copies in found.path.parents
        sentence = set_aside(copies if local and copies is not None else self.root, found, then)
        if sentence:
            self.notes.add(sentence)
        if local and copies is not None and found.path is not None:
            # A copy of what is damaged already would be no better.
            source = self.root / found.path.relative_to(copies)
            try:
                if has_hashes(source):
                    check_whole(source)
            except Unfit as there:
                self.set_aside(there, then)
        return sentence

    @property
    def notes(self) -> Notes:
        """What the run's processes have to say to its user."""
        return Notes(self.root)

    def lost_gallery(self, cell: str) -> bool:
        """True if a gallery was set aside and not made again."""
        gallery = self.gallery(cell)
        return not gallery.exists() and (self.root / SET_ASIDE / "gallery" / gallery.name).exists()
