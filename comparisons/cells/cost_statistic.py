"""Cells of the cost of SMOE Scale itself: operations of its steps, and time of its statistic."""

from __future__ import annotations

from dataclasses import asdict

import torch

from comparisons.cells.cell import Cell, Outcome, cell_kind
from comparisons.cells.cost_subject import built_network, noise
from comparisons.methods.costed import taps_of_scales
from evaluation.profiling.smoe_scale_steps import (
    StepOperations,
    count_combination,
    count_map_steps,
    paper_operations,
)
from evaluation.profiling.timing import time_in_turns
from evaluation.storage.store import Store
from fastsal import SMOEScale
from fastsal.networks.hooks import forward
from fastsal.networks.scales import Scale
from fastsal.statistics.registry import get_statistic

_STATISTIC = "smoe_scale"


@cell_kind("reading")
def cost_of_reading(cell: Cell, store: Store, device: str) -> Outcome:
    """Time SMOE Scale's statistic and a sum over channels, on the same activations."""
    del store
    spec = cell.spec
    torch.set_num_threads(spec["threads"])
    network = built_network(spec, device)
    batch = noise(spec, network, spec["batch"], device)
    statistic = get_statistic(_STATISTIC)
    with torch.inference_mode():
        taps = list(taps_of_scales(network, batch.inputs[:1], lambda tensor: tensor.clone()))
        _, activations = forward(network, (batch.inputs,), taps=taps)
        timing = time_in_turns(
            lambda: [tensor.sum(1) for tensor in activations],
            lambda: [statistic(tensor) for tensor in activations],
            rounds=spec["rounds"],
            limit_s=spec["limit_s"],
            device=device,
        )
    rounds = zip(timing.forward_ms, timing.map_ms, strict=True)
    return {
        "records": (),
        "history": tuple({"forward_ms": once, "map_ms": statistic} for once, statistic in rounds),
    }


@cell_kind("steps")
def costs_of_steps(cell: Cell, store: Store, device: str) -> Outcome:
    """Count the operations of SMOE Scale per scale, by the paper's formulas and in the code."""
    del store
    spec = cell.spec
    network = built_network(spec, device)
    batch = noise(spec, network, 1, device)
    size = (spec["size"], spec["size"])
    with torch.inference_mode():
        scales = SMOEScale(network).maps(batch.inputs).scales
        shapes = [_channels_first(scale) for scale in scales]
        rows = paper_operations(shapes, size)
        history = []
        for shape, row in zip(shapes, rows, strict=True):
            counted = asdict(_count_steps(shape, size, device))
            paper = {f"paper_{step}": value for step, value in asdict(row).items()}
            sides = dict(zip(("channels", "height", "width"), shape, strict=True))
            history.append({**sides, **paper, **counted})
    return {"records": (), "history": tuple(history)}


def _count_steps(shape: tuple[int, int, int], size: tuple[int, int], device: str) -> StepOperations:
    """Operations of our code for one scale of one image, whose map is added to others."""
    three, two = (count_combination([shape] * scales, size, device=device) for scales in (3, 2))
    return StepOperations(*count_map_steps(shape, device=device), combination=three - two)


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
