"""Cells of costs: time, operations and memory of a method."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from comparisons.cells.cell import Cell, Outcome, cell_kind, record
from comparisons.cells.cost_subject import built_network, noise
from comparisons.cells.explained import frozen
from comparisons.methods import Batch, get_method
from comparisons.methods.costed import compiled_network, costed
from comparisons.methods.examples import example_batch
from evaluation.profiling.memory import allocated_peak_bytes
from evaluation.profiling.profile import count, time_metrics
from evaluation.profiling.timing import time_in_turns
from evaluation.storage.records import Record
from evaluation.storage.store import Store
from fastsal.optional import one_line

__all__ = ["NETWORK_ALONE"]

# The plain forward pass, as a row of its own.
NETWORK_ALONE = "none"
# Groups that take no gradient, and run in inference mode like the plain forward pass.
_WITHOUT_GRADIENT = ("control", "smoe", "activation")
# The largest difference of the compiled network's map, as a share of the eager map's norm.
_ROUNDING = 0.1


@cell_kind("profile")
def profile_of_method(cell: Cell, store: Store, device: str) -> Outcome:
    """Measure time, operations and memory of a method's maps in a comparison, per image."""
    dataset, network, targets = frozen(cell, store, device)
    batch = cell.spec["batch"]
    # Images repeat if the test split is smaller than the batch.
    indices = np.arange(batch) % len(dataset.test.labels)
    example = example_batch(dataset, "test", targets["test"], indices, device)
    explain = get_method(cell.spec["method"]).prepare(network)

    def forward() -> object:
        with torch.inference_mode():
            return network(example.inputs)

    timing = time_in_turns(forward, lambda: explain(example), device=device)
    counts = count(forward, lambda: explain(example))
    counted = {metric: value / batch for metric, value in counts.metrics().items()}
    values = time_metrics(timing, batch) | counted
    records = tuple(record(cell, dataset.name, metric, value) for metric, value in values.items())
    return {"records": records, "hashes": counts.not_counted}


@cell_kind("cost")
def time_of_method(cell: Cell, store: Store, device: str) -> Outcome:
    """Time a method, or the network alone, in turns with the network, on a batch of noise."""
    del store
    spec = cell.spec
    torch.set_num_threads(spec["threads"])
    network = built_network(spec, device)
    batch = noise(spec, network, spec["batch"], device)
    if spec["compiled"]:
        network = _compiled(spec, network, batch)
    forward = _forward(network, batch)
    explain = _explain(spec, network, batch)
    with _quietly():
        timing = time_in_turns(
            forward, explain, rounds=spec["rounds"], limit_s=spec["limit_s"], device=device
        )
    rounds = zip(timing.forward_ms, timing.map_ms, strict=True)
    return {
        "records": _records(cell, time_metrics(timing, spec["batch"]), spec["batch"]),
        "history": tuple(
            {"round": index, "forward_ms": plain, "map_ms": explained}
            for index, (plain, explained) in enumerate(rounds)
        ),
    }


@cell_kind("counts")
def counts_of_method(cell: Cell, store: Store, device: str) -> Outcome:
    """Count operations and memory of a method, or of the network alone, for one image of noise."""
    del store
    spec = cell.spec
    network = built_network(spec, device)
    batch = noise(spec, network, 1, device)
    forward = _forward(network, batch)
    explain = _explain(spec, network, batch)

    def from_scratch() -> object:
        # Gradients of the weights that a method leaves behind are part of what it holds.
        network.zero_grad(set_to_none=True)
        return explain()

    with _quietly():
        counts = count(forward, from_scratch)
        allocated = [allocated_peak_bytes(work, device) for work in (forward, from_scratch)]
    values = counts.metrics() | {"allocated_bytes": max(0, allocated[1] - allocated[0])}
    if spec["method"] == NETWORK_ALONE:
        # The network's own peak is the reference of all others.
        values |= {"forward_bytes": counts.forward_memory.peak_bytes}
    return {
        "records": _records(cell, values, 1),
        "hashes": counts.not_counted,
    }


def _forward(network: nn.Module, batch: Batch) -> Callable[[], object]:
    def forward() -> object:
        with torch.inference_mode():
            return network(batch.inputs)

    return forward


def _explain(spec: Any, network: nn.Module, batch: Batch) -> Callable[[], object]:
    """Return a function that makes the maps of a batch, or that runs the network alone."""
    if spec["method"] == NETWORK_ALONE:
        return _forward(network, batch)
    return _explained(spec["method"], network, batch)


def _explained(method: str, network: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    entry = costed()[method]
    prepared = entry.prepare(network)

    def mode() -> AbstractContextManager[None]:
        return torch.inference_mode() if entry.group in _WITHOUT_GRADIENT else nullcontext()

    def explain() -> Tensor:
        with mode():
            return prepared(batch)

    return explain


def _compiled(spec: Any, network: nn.Module, batch: Batch) -> nn.Module:
    """Return the compiled network, if the method gives the same map for it as for the eager one.

    A compiled network calls no hook that is set afterwards, and is one node of autograd's graph, so
    some methods would be timed doing something else.
    """
    compiled = compiled_network(network, cuda_graphs=spec.get("cuda_graphs", False))
    try:
        _forward(compiled, batch)()
    except Exception as error:
        raise RuntimeError(
            f"torch.compile cannot compile {spec['model']} here: {one_line(error)}"
        ) from error
    if spec["method"] != NETWORK_ALONE:
        with _quietly():
            eager, found = (
                _explained(spec["method"], net, batch)().detach().float()
                for net in (network, compiled)
            )
        away = float((found - eager).norm() / eager.norm().clamp_min(1e-12))
        if not away <= _ROUNDING:
            raise RuntimeError(
                f"{spec['method']} gives another map for the compiled network, {away:.2g} of its "
                "norm away: its hooks are not called there, so its time is not measured"
            )
    return compiled


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warnings that Captum and PyTorch repeat at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _records(cell: Cell, values: dict[str, float], images: int) -> tuple[Record, ...]:
    spec = cell.spec
    compiled = ", compiled" if spec.get("compiled") else ""
    compiled += " with CUDA graphs" if spec.get("cuda_graphs") else ""
    size = spec.get("grid") or f"{spec['size']}x{spec['size']}"
    dataset = f"noise {size}, {images} at once, {spec['precision']}{compiled}, {spec['device']}"
    return tuple(record(cell, dataset, metric, value) for metric, value in values.items())
