"""Artefacts of finished cells made again: missing images, networks, predictions and maps."""

from __future__ import annotations

import shutil

from comparisons.cells.cell import CELL_KINDS, Cell
from evaluation.datasets.dataset import SPLITS, DatasetError
from evaluation.datasets.load import Request, stage
from evaluation.datasets.staged import staged_hash
from evaluation.datasets.staging import Progress
from evaluation.masking.level_files import Levels
from evaluation.storage.local_copies import locked
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["restore_inputs", "stage_again"]


def restore_inputs(cell: Cell, store: Store, device: str) -> None:
    """Make the missing artefacts that a cell reads again, and compare their hashes.

    They are missing on another machine, which gets the results of a run without all artefacts, and
    where they were set aside.

    Raises:
        ValueError: this machine makes others.
    """
    if cell.kind == "same":  # reads a result alone
        return
    spec = cell.spec
    read = [
        spec[name] for name in ("data", "base", "permuted", "fine_tuned", "maps") if name in spec
    ]
    read += spec.get("folds", ()) if isinstance(spec.get("folds"), list) else ()
    read += [spec["before"]["maps"]] if "before" in spec else []
    for needed in read:
        _restore(needed, store, device)


def stage_again(
    cell: Cell, recorded: CellResult, store: Store, progress: Progress | None = None
) -> None:
    """Stage missing images of a finished data cell again, and compare their hash.

    Args:
        cell: the data cell.
        recorded: its result.
        store: the run's folder.
        progress: told how many images are staged.

    Raises:
        DatasetError: the source has other images now.
        evaluation.storage.sealed.Unfit: the folder holds something else than what was staged.
    """
    folder, source = store.data(cell.id), cell.spec["source"]
    found, expected = staged_hash(folder), recorded.hashes["data"]
    if found is None:
        found = stage(source, Request(**cell.spec["request"]), folder, progress)["data"]
    if found not in ("", expected):
        shutil.rmtree(folder)
        raise DatasetError(
            f"the images of {source} on this machine are not those of the run in {store.root} "
            f"(hash {found}, recorded {expected}): put those in their place, or start another run"
        )


def _restore(cell_id: str, store: Store, device: str) -> None:
    recorded = store.result(cell_id)
    if recorded is None or _has_artefacts(recorded, store):
        return
    # The lock is outside the folder, which is removed while others wait.
    with locked(store.root / ".again" / cell_id):
        if _has_artefacts(recorded, store):  # another process made them
            return
        cell = Cell(recorded.kind, recorded.spec)
        if cell.kind == "data":
            stage_again(cell, recorded, store)
            return
        if cell.ranks > 1:
            raise FileNotFoundError(
                f"the network that the {cell.kind} cell {cell.id} trained in {cell.ranks} ranks is "
                f"gone: delete {store.cell(cell.id)} to train it again"
            )
        restore_inputs(cell, store, device)
        made = CELL_KINDS[cell.kind](cell, store.again(cell.id), device)["hashes"]
        differ = [name for name in made if made[name] != recorded.hashes.get(name)]
        if differ:
            name = differ[-1]
            raise ValueError(
                f"{store.root} lacks what the {cell.kind} cell {cell.id} left, and this machine "
                f"makes others ({name} {made[name]}, recorded {recorded.hashes.get(name)}): "
                "archive the run with its models and maps where it was made, or continue it there"
            )
        store.keep_again(cell.id)
        store.checkpoint(cell.id).remove()
        shutil.rmtree(store.again_folder(cell.id), ignore_errors=True)


def _has_artefacts(recorded: CellResult, store: Store) -> bool:
    """Return True if every artefact that later cells read of a finished cell exists."""
    kind, cell = recorded.kind, recorded.id
    if kind == "data":
        return staged_hash(store.data(cell)) is not None
    if kind == "maps":
        return all(Levels.is_sealed(store.maps(cell) / f"{name}.zarr") for name in SPLITS)
    kept = kind == "retrain" and recorded.spec.get("keep")
    paths = []
    if kept or kind in ("base", "pretrained", "given", "permuted", "fine_tuned"):
        paths.append(store.model(cell))
    if kept or kind in ("base", "pretrained", "fold"):
        paths.append(store.predictions(cell))
    return all(path.exists() for path in paths)
