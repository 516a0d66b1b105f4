"""Run one cell: a pure function of its specification and the store.

A cell does not know where it runs. It finds its inputs in the store by the ids in its
specification, and puts its artefacts there. Its result is written last, so that a cell whose result
exists is complete.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from importlib.metadata import version as installed_version
from typing import Any

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
from comparisons.cells.artefacts import restore_inputs
from comparisons.cells.cell import CELL_KINDS, Cell, Outcome
from comparisons.cells.trained import TrainingDone
from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.load import Request, stage
from evaluation.datasets.staging import Progress, content_of
from evaluation.hardware import processor_name
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store
from fastsal import __version__

__all__ = ["assist_cell", "environment", "run_cell"]


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
        if cell.kind == "data":
            _stage_again(cell, finished, store, progress)
        return finished
    restore_inputs(cell, store, device)
    started = time.perf_counter()
    if cell.kind == "data":
        outcome = _data(cell, store, progress)
    else:
        outcome = CELL_KINDS[cell.kind](cell, store, device)
    result = CellResult(
        id=cell.id,
        kind=cell.kind,
        spec=cell.spec,
        seconds=time.perf_counter() - started,
        environment=environment(device),
        **outcome,
    )
    return store.save_result(result)


def assist_cell(cell: Cell, store: Store, *, device: str = "cpu") -> None:
    """Train a cell's network as one of the ranks after 0; rank 0 records the cell.

    Args:
        cell: the cell.
        store: the run's folder.
        device: of the network.
    """
    restore_inputs(cell, store, device)
    with contextlib.suppress(TrainingDone):
        CELL_KINDS[cell.kind](cell, store, device)


def _data(cell: Cell, store: Store, progress: Progress | None) -> Outcome:
    request = Request(**cell.spec["request"])
    hashes = stage(cell.spec["source"], request, store.data(cell.id), progress)
    return {"records": (), "hashes": hashes}


def _stage_again(cell: Cell, recorded: CellResult, store: Store, progress: Progress | None) -> None:
    """Stage missing images of a finished data cell again, and compare their hash."""
    folder, source = store.data(cell.id), cell.spec["source"]
    if not (folder / "meta.json").exists():
        stage(source, Request(**cell.spec["request"]), folder, progress)
    found, expected = content_of(folder), recorded.hashes["data"]
    if found not in (None, expected):
        shutil.rmtree(folder)
        raise DatasetError(
            f"the images of {source} on this machine are not those of the run in {store.root} "
            f"(hash {found}, recorded {expected}): put those in their place, or start another run"
        )


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
    }
