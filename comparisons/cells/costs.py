"""The pieces of work of a run that measures costs; each as `comparisons.cells.run` has its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from comparisons.cells.cost_subject import built_network, noise
from comparisons.methods import Batch
from comparisons.methods.costed import costed
from evaluation.profiling.memory import allocated_peak_bytes
from evaluation.profiling.profile import count, time_metrics
from evaluation.profiling.timing import time_in_turns
from evaluation.storage.records import METRICS, Record
from evaluation.storage.store import Store
from fastsal import __version__

if TYPE_CHECKING:
    from comparisons.cells.run import Cell

__all__ = ["NETWORK_ALONE", "counts_of_method", "time_of_method"]

# The plain forward pass, as a row of its own.
NETWORK_ALONE = "none"
# They take no gradient, and run as the plain forward pass does.
_WITHOUT_GRADIENT = ("control", "smoe")
# Of a map's norm: how far a map of the compiled network may be from the eager one's.
_ROUNDING = 0.1


def time_of_method(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Time of a method, or of the network alone, on a batch of noise, in turns with the network."""
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


def counts_of_method(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Operations and memory of a method, or of the network alone, for one image of noise."""
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
        # Of the network its own peak is told, against which the others' stand.
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
    """What makes the maps of a batch by the method of a cell; of none, the plain forward pass."""
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
    """The network compiled, once it is known that the method's map of it is the eager one's.

    A compiled network calls no hook that is set afterwards: methods that do not know would be
    timed doing something else.
    """
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    try:
        _forward(compiled, batch)()
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        raise RuntimeError(f"torch.compile cannot compile {spec['model']} here: {said}") from error
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
    """Captum and PyTorch warn of the same at every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _records(cell: Cell, values: dict[str, float], images: int) -> tuple[Record, ...]:
    spec = cell.spec
    compiled = ", compiled" if spec.get("compiled") else ""
    return tuple(
        Record(
            method=spec["method"],
            parameters=spec["parameters"],
            dataset=f"noise {spec['size']}x{spec['size']}, {images} at once, "
            f"{spec['precision']}{compiled}, {spec['device']}",
            model=spec["model"],
            mode="unmasked",
            fraction=None,
            layer=None,
            metric=metric,
            value=value,
            unit=METRICS[metric].unit,
            seed=None,
            version=__version__,
            cell=cell.id,
        )
        for metric, value in values.items()
    )
