"""The pieces of work of a run that measures costs; each as `comparisons.cells` has its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from comparisons.costs.methods import costed
from comparisons.registry import Batch
from evaluation.memory import allocated_peak_bytes
from evaluation.networks import build_network
from evaluation.operations import count_operations, paper_operations
from evaluation.profiling import count, time_in_turns
from evaluation.records import METRICS, Record
from evaluation.store import Store
from fastsal import SMOEScale, __version__
from fastsal.combine import combine
from fastsal.normalize import get_normalization
from fastsal.scales import Scale
from fastsal.statistics import get_statistic

if TYPE_CHECKING:
    from comparisons.cells import Cell

__all__ = ["NETWORK_ALONE", "costs_of_method", "costs_of_steps"]

# The plain forward pass, as a row of its own.
NETWORK_ALONE = "none"
# They take no gradient, and run as the plain forward pass does.
_WITHOUT_GRADIENT = ("control", "smoe")


def costs_of_method(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Time, operations and memory of a method, or of the network alone, on a batch of noise."""
    del store
    spec = cell.spec
    torch.set_num_threads(spec["threads"])
    network = _network(spec, device)
    batch = _batch(spec, network, device)

    def forward() -> object:
        with torch.inference_mode():
            return network(batch.inputs)

    explain = forward if spec["method"] == NETWORK_ALONE else _explain(spec, network, batch)

    def from_scratch() -> object:
        # Gradients of the weights that a method leaves behind are part of what it holds.
        network.zero_grad(set_to_none=True)
        return explain()

    with warnings.catch_warnings():
        # Captum and PyTorch say the same at every call.
        warnings.simplefilter("ignore")
        timing = time_in_turns(
            forward, explain, rounds=spec["rounds"], limit_s=spec["limit_s"], device=device
        )
        counts = count(forward, from_scratch)
        allocated = [allocated_peak_bytes(work, device) for work in (forward, from_scratch)]
    images = spec["batch"]
    values = {
        "forward_ms": median(timing.forward_ms) / images,
        "map_ms": median(timing.map_ms) / images,
        "overhead_percent": timing.overhead_percent.median,
        "first_ms": timing.first_ms,
        "map_flops": counts.map.flops / images,
        "map_elementwise": counts.map.elementwise / images,
        "map_transcendental": counts.map.transcendental / images,
        "map_reduction": counts.map.reduction / images,
        "peak_bytes": counts.extra_peak_bytes / images,
        "scratch_bytes": counts.extra_scratch_bytes / images,
        "allocated_bytes": max(0, allocated[1] - allocated[0]) / images,
    }
    rounds = zip(timing.forward_ms, timing.map_ms, strict=True)
    return {
        "records": tuple(_record(cell, metric, value) for metric, value in values.items()),
        "history": tuple(
            {"round": index, "forward_ms": plain, "map_ms": explained}
            for index, (plain, explained) in enumerate(rounds)
        ),
        "hashes": {"not_counted": ", ".join(counts.map.unknown)} if counts.map.unknown else {},
    }


def costs_of_steps(cell: Cell, store: Store, device: str) -> dict[str, Any]:
    """Operations of SMOE Scale, scale by scale: the paper's formulas and our code's count."""
    del store
    spec = cell.spec
    network = _network(spec, device)
    batch = _batch({**spec, "batch": 1}, network, device)
    size = (spec["size"], spec["size"])
    with torch.inference_mode():
        scales = SMOEScale(network).maps(batch.inputs).scales
        shapes = [_channels_first(scale) for scale in scales]
        rows = paper_operations(shapes, size)
        history = []
        for shape, row in zip(shapes, rows, strict=True):
            counted = _count_steps(shape, size, device)
            paper = {f"paper_{step}": value for step, value in asdict(row).items()}
            sides = dict(zip(("channels", "height", "width"), shape, strict=True))
            history.append({**sides, **paper, **counted})
    return {"records": (), "history": tuple(history)}


def _count_steps(shape: tuple[int, int, int], size: tuple[int, int], device: str) -> dict[str, int]:
    """What our code takes for one scale of one image; of the combination, to add it to others."""
    activations = torch.rand((1, *shape), device=device)
    values = get_statistic("smoe_scale")(activations)
    normalization = get_normalization("gaussian")
    counted = normalization(values)

    def combined(times: int) -> int:
        return count_operations(lambda: combine([counted] * times, [1.0] * times, size)).other

    return {
        "statistic": count_operations(lambda: get_statistic("smoe_scale")(activations)).other,
        "normalization": count_operations(lambda: normalization(values)).other,
        "combination": combined(3) - combined(2),
    }


def _channels_first(scale: Scale) -> tuple[int, int, int]:
    first, *others = scale.shape[1:]
    channels, height, width = (
        (others[-1], first, others[0])
        if scale.channels_last
        else (
            first,
            *others,
        )
    )
    return channels, height, width


def _network(spec: Any, device: str) -> nn.Module:
    size = (spec["size"], spec["size"])
    network = build_network(spec["model"], spec["classes"], 0, size=size).to(device).eval()
    return network.to(torch.bfloat16) if spec["precision"] == "bfloat16" else network


def _batch(spec: Any, network: nn.Module, device: str) -> Batch:
    """Noise of a seed: what a map costs does not depend on what it shows."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch"], 3, spec["size"], spec["size"])
    dtype = next(network.parameters()).dtype
    inputs = torch.rand(shape, generator=generator).to(device, dtype)
    with torch.inference_mode():
        target = network(inputs).argmax(1)
    return Batch(
        inputs=inputs,
        target=target.clone(),
        index=torch.arange(spec["batch"]),
        input_range=1.0,
        black=(0.0, 0.0, 0.0),
    )


def _explain(spec: Any, network: nn.Module, batch: Batch) -> Callable[[], Tensor]:
    entry = costed()[spec["method"]]
    prepared = entry.prepare(network)

    def mode() -> AbstractContextManager[None]:
        return torch.inference_mode() if entry.group in _WITHOUT_GRADIENT else nullcontext()

    def explain() -> Tensor:
        with mode():
            return prepared(batch)

    return explain


def _record(cell: Cell, metric: str, value: float) -> Record:
    spec = cell.spec
    return Record(
        method=spec["method"],
        parameters=spec["parameters"],
        dataset=f"noise {spec['size']}x{spec['size']}, {spec['batch']} at once",
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
