"""Run one cell: a pure function of its specification and the store.

A cell does not know where it runs. It finds its inputs in the store by the ids in its
specification, and puts its artefacts there. Its result is written last, so that a cell whose result
exists is complete.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version as installed_version
from typing import Any, TypeVar

import torch

from comparisons.budget import memory_budget_bytes

# Importing these registers their kinds of cells.
from comparisons.cells import (  # noqa: F401
    cost_statistic,
    costs,
    explained,
    folds,
    layers,
    maps,
    measures,
)
from comparisons.cells.artefacts import restore_inputs, stage_again
from comparisons.cells.cell import CELL_KINDS, Cell, Outcome
from comparisons.cells.maps import restore_gallery
from comparisons.cells.trained import TrainingDone
from evaluation.datasets.load import Request, stage
from evaluation.datasets.staging import Progress
from evaluation.hardware import processor_name, source_commit
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store
from fastsal import __version__

__all__ = ["assist_cell", "environment", "run_cell", "with_sound_files"]

# Each sets one file aside: more than a run has kinds of files that a cell reads.
_ATTEMPTS = 16
T = TypeVar("T")


def run_cell(
    cell: Cell, store: Store, *, device: str = "cpu", progress: Progress | None = None
) -> CellResult:
    """Run a cell, unless it is finished, and record its result.

    Args:
        cell: the cell.
        store: the run's folder, for inputs, artefacts and the result.
        device: of the network.
        progress: of a ``data`` cell, told how many images are staged.

    Returns:
        The result, as it is recorded.

    Raises:
        ValueError: artefacts of a finished cell that this one reads are gone, and this machine
            makes others.
    """
    finished = store.result(cell.id)
    if finished is not None:
        with_sound_files(cell, store, lambda: _complete(cell, finished, store, device, progress))
        return finished

    def work() -> tuple[float, Outcome]:
        restore_inputs(cell, store, device)
        started = time.perf_counter()
        if cell.kind == "data":
            outcome = _data(cell, store, progress)
        else:
            outcome = CELL_KINDS[cell.kind](cell, store, device)
        return time.perf_counter() - started, outcome

    seconds, outcome = with_sound_files(cell, store, work)
    seconds += outcome.pop("earlier_seconds", 0.0)
    result = CellResult(
        id=cell.id,
        kind=cell.kind,
        spec=cell.spec,
        seconds=seconds,
        environment=environment(device),
        **outcome,
    )
    recorded = store.save_result(result)
    store.checkpoint(cell.id).remove()
    return recorded


def assist_cell(cell: Cell, store: Store, *, device: str = "cpu") -> None:
    """Train a cell's network as one of the ranks after 0; rank 0 records the cell.

    Args:
        cell: the cell.
        store: the run's folder.
        device: of the network.
    """

    def work() -> None:
        restore_inputs(cell, store, device)
        with contextlib.suppress(TrainingDone):
            CELL_KINDS[cell.kind](cell, store, device)

    with_sound_files(cell, store, work)


def with_sound_files(cell: Cell, store: Store, work: Callable[[], T]) -> T:
    """Do the work of a cell; again, where a file that it reads is not what was stored.

    The file is set aside before, so that the work makes it again. A training of several ranks fails
    instead: all ranks start again with the next start of the run.

    Args:
        cell: the cell.
        store: the run's folder.
        work: makes what it misses.

    Raises:
        Unfit: the disk does not keep what is written, or the file is a cell's result.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return work()
        except Unfit as found:
            result = found.path is not None and found.path.parent == store.cell(cell.id).parent
            if result or attempt == _ATTEMPTS - 1:
                raise
            store.set_aside(found, "made again")
            if cell.ranks > 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _complete(
    cell: Cell, finished: CellResult, store: Store, device: str, progress: Progress | None
) -> None:
    """Make again what a finished cell left for the driver and for pages."""
    if cell.kind == "data":
        stage_again(cell, finished, store, progress)
    if cell.kind == "maps" and store.lost_gallery(cell.id):
        restore_inputs(cell, store, device)
        restore_gallery(cell, store, device)


def _data(cell: Cell, store: Store, progress: Progress | None) -> Outcome:
    request = Request(**cell.spec["request"])
    hashes = stage(cell.spec["source"], request, store.data(cell.id), progress)
    return {"records": (), "hashes": hashes}


def environment(device: str) -> dict[str, Any]:
    """Return versions and hardware, as every result records them.

    Args:
        device: of the networks.
    """
    packages = ("torch", "torchvision", "captum", "numpy")
    return {
        "fastsal": __version__,
        "python": platform.python_version(),
        **{name: installed_version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "memory_budget_mib": memory_budget_bytes() // 2**20,
        "device": device,
        "date": datetime.now(timezone.utc).date().isoformat(),
        **({"commit": commit} if (commit := source_commit()) else {}),
    }
