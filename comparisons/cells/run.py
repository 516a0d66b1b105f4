"""The pieces of work of a comparison, each a pure function of its specification and the store.

A cell does not know where it runs. What it reads, it finds in the store by the ids in
its specification; what it makes, it puts there; its result is written last, so that a
cell whose result exists is complete.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed_version
from typing import Any

import numpy as np
import torch

from comparisons.budget import memory_budget_bytes
from comparisons.cells import layers as layer_cells
from comparisons.cells.cost_statistic import cost_of_reading, costs_of_steps
from comparisons.cells.costs import counts_of_method, time_of_method
from comparisons.cells.explained import frozen, take_weights
from comparisons.cells.folds import taken_over, train_without_fold
from comparisons.cells.maps import make_maps, make_part
from comparisons.cells.measures import measure, train_on_permuted
from comparisons.cells.trained import (
    TrainingDone,
    keep_network,
    masked_views,
    record,
    train_and_test,
)
from comparisons.methods.controls import METHODS
from comparisons.methods.examples import example_batch
from evaluation.datasets.dataset import SPLITS, Dataset, DatasetError, open_staged
from evaluation.datasets.load import Request, stage
from evaluation.datasets.staging import Progress, content_of
from evaluation.hardware import processor_name
from evaluation.masking.level_files import Levels
from evaluation.masking.views import InputView
from evaluation.profiling.profile import count, time_metrics
from evaluation.profiling.timing import time_in_turns
from evaluation.storage.local_copies import locked
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store, spec_id
from fastsal import __version__

__all__ = ["CODE_VERSION", "Cell", "assist_cell", "environment", "run_cell"]

# Part of every cell's id. Raised when a change alters what a cell computes, so that
# results from before are not taken for results from after.
CODE_VERSION = 1

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Args:
        kind: ``data``, ``base``, ``pretrained``, ``maps``, ``part`` (of maps), ``retrain``,
            ``mask_only``, ``fold``, ``same``, ``permuted``, ``measure`` or ``profile``; inside a
            network ``given``, ``activations``, ``locations`` or ``tune``; of costs alone ``cost``,
            ``counts``, ``reading`` or ``steps``.
        spec: everything the result depends on, the hashes of what it reads included.

    >>> Cell("data", {"source": "shapes"}).id == Cell("data", {"source": "cifar10"}).id
    False
    """

    kind: str
    spec: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        """Hash of the full specification and the version of the code."""
        return spec_id({"kind": self.kind, "code": CODE_VERSION, "spec": self.spec})

    @property
    def ranks(self) -> int:
        """How many processes do it together: those that its network is trained by.

        >>> Cell("base", {"recipe": {"ranks": 4}}).ranks, Cell("data", {}).ranks
        (4, 1)
        """
        return int(self.spec.get("recipe", {}).get("ranks", 1))


def run_cell(
    cell: Cell, store: Store, *, device: str = "cpu", progress: Progress | None = None
) -> CellResult:
    """Do the work of a cell, unless it is done, and record it.

    Args:
        cell: what to do.
        store: where its inputs are and its result goes.
        device: where its network runs.
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
    _bring_back_inputs(cell, store, device)
    started = time.perf_counter()
    if cell.kind == "data":
        outcome = _data(cell, store, progress)
    else:
        outcome = _WORK[cell.kind](cell, store, device)
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
    """Take part in the training of a cell as one of its other ranks; rank 0 records it.

    Args:
        cell: what to do.
        store: where its inputs are.
        device: where its network runs.
    """
    _bring_back_inputs(cell, store, device)
    with contextlib.suppress(TrainingDone):
        _WORK[cell.kind](cell, store, device)


def _data(cell: Cell, store: Store, progress: Progress | None) -> Outcome:
    request = Request(**cell.spec["request"])
    hashes = stage(cell.spec["source"], request, store.data(cell.id), progress)
    return {"records": (), "hashes": hashes}


def _stage_again(cell: Cell, recorded: CellResult, store: Store, progress: Progress | None) -> None:
    """Stage the images of a finished data cell where they are gone, and compare their hash."""
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


def _bring_back_inputs(cell: Cell, store: Store, device: str) -> None:
    """Make artefacts that a cell reads again, where they are gone.

    So it is on another machine, which gets the results of a run and not all that they left.
    """
    if cell.kind == "same":  # reads a result alone
        return
    spec = cell.spec
    read = [spec[name] for name in ("base", "permuted", "maps") if name in spec]
    read += spec.get("folds", ()) if isinstance(spec.get("folds"), list) else ()
    read += [spec["before"]["maps"]] if "before" in spec else []
    for needed in read:
        _bring_back(needed, store, device)


def _bring_back(cell_id: str, store: Store, device: str) -> None:
    recorded = store.result(cell_id)
    if recorded is None or _has_artefacts(recorded, store):
        return
    # Locked elsewhere than in the folder, which goes while others wait.
    with locked(store.root / ".again" / cell_id):
        if _has_artefacts(recorded, store):  # another process made them
            return
        cell = Cell(recorded.kind, recorded.spec)
        if cell.ranks > 1:
            raise FileNotFoundError(
                f"the network that the {cell.kind} cell {cell.id} trained in {cell.ranks} ranks is "
                f"gone: delete {store.cell(cell.id)} to train it again"
            )
        _bring_back_inputs(cell, store, device)
        made = _WORK[cell.kind](cell, store.again(cell.id), device)["hashes"]
        differ = [name for name in made if made[name] != recorded.hashes.get(name)]
        if differ:
            name = differ[-1]
            raise ValueError(
                f"{store.root} lacks what the {cell.kind} cell {cell.id} left, and this machine "
                f"makes others ({name} {made[name]}, recorded {recorded.hashes.get(name)}): "
                "archive the run with its models and maps where it was made, or continue it there"
            )
        store.keep_again(cell.id)
        shutil.rmtree(store.again_folder(cell.id), ignore_errors=True)


def _has_artefacts(recorded: CellResult, store: Store) -> bool:
    """Whether all that later cells read of a finished one is there."""
    kind, cell = recorded.kind, recorded.id
    if kind == "maps":
        return all(Levels.is_sealed(store.maps(cell) / f"{name}.zarr") for name in SPLITS)
    kept = kind == "retrain" and recorded.spec.get("keep")
    paths = []
    if kept or kind in ("base", "pretrained", "given", "permuted"):
        paths.append(store.model(cell))
    if kept or kind in ("base", "pretrained", "fold"):
        paths.append(store.predictions(cell))
    return all(path.exists() for path in paths)


def _base(cell: Cell, store: Store, device: str) -> Outcome:
    dataset = open_staged(store.local_data(cell.spec["data"]))
    views = _whole(dataset)
    outcome, network = train_and_test(cell, dataset, device, *views)
    outcome["hashes"]["predictions"] = keep_network(cell, network, views, store, device)
    return outcome


def _retrain(cell: Cell, store: Store, device: str) -> Outcome:
    dataset = open_staged(store.local_data(cell.spec["data"]))
    train_view, test_view = masked_views(
        dataset, cell.spec, store, mask_only=cell.kind == "mask_only"
    )
    first, folder = dataset.first_index("test"), store.local()
    views = train_view.filled(0, folder), test_view.filled(first, folder)
    outcome, network = train_and_test(cell, dataset, device, *views)
    if cell.spec.get("keep"):
        outcome["hashes"]["predictions"] = keep_network(cell, network, views, store, device)
    return outcome


def _profile(cell: Cell, store: Store, device: str) -> Outcome:
    dataset, network, targets = frozen(cell, store, device)
    batch = cell.spec["batch"]
    # Of a smaller test split some images come twice: the cost is that of the batch.
    indices = np.arange(batch) % len(dataset.test.labels)
    example = example_batch(dataset, "test", targets["test"], indices, device)
    explain = METHODS[cell.spec["method"]].prepare(network)

    def forward() -> object:
        with torch.inference_mode():
            return network(example.inputs)

    timing = time_in_turns(forward, lambda: explain(example), device=device)
    counts = count(forward, lambda: explain(example))
    counted = {metric: value / batch for metric, value in counts.metrics().items()}
    values = time_metrics(timing, batch) | counted
    records = tuple(record(cell, dataset, metric, value) for metric, value in values.items())
    return {"records": records, "hashes": counts.not_counted}


_WORK: dict[str, Callable[[Cell, Store, str], Outcome]] = {
    "base": _base,
    "pretrained": take_weights,
    "maps": make_maps,
    "part": make_part,
    "retrain": _retrain,
    "mask_only": _retrain,
    "permuted": train_on_permuted,
    "measure": measure,
    "fold": train_without_fold,
    "same": taken_over,
    "profile": _profile,
    "given": layer_cells.given,
    "activations": layer_cells.activations,
    "locations": layer_cells.locations,
    "tune": layer_cells.tune,
    "cost": time_of_method,
    "counts": counts_of_method,
    "reading": cost_of_reading,
    "steps": costs_of_steps,
}


def _whole(dataset: Dataset) -> tuple[InputView, InputView]:
    """Training and test images with nothing removed."""
    train, test = (dataset.split(name).images for name in SPLITS)
    return (
        InputView(train, dataset.mean, dataset.std),
        InputView(test, dataset.mean, dataset.std),
    )


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware, as every result records them.

    Args:
        device: where networks run.
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
