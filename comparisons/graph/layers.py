"""The graph of a run inside the network, and the time of its trainings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from comparisons.cells.cell import Cell
from comparisons.graph.nodes import Node
from comparisons.graph.specs import Done, data_cell
from comparisons.plans.layers import AS_BUILT, TRAIN, LayersPlan
from evaluation.datasets.dataset import Dataset
from evaluation.layers.layer_arrays import RANDOM
from evaluation.layers.tails import tail_of
from evaluation.masking.levels import MODES, Mode
from evaluation.networks.build import build_network
from evaluation.training.recipe import PRECISIONS, Recipe
from fastsal.files import short_hash
from fastsal.networks.scales import find_scales

__all__ = ["Layers", "build_layer_nodes", "probe_layers"]


# A forward pass as a share of a training step.
_FORWARD = 1 / 3


@dataclass(frozen=True)
class Layers:
    """The scales of a network, and the time of a training step after each.

    Args:
        names: of the layers, the shallowest first.
        numbers: of activations of an image at each.
        step_us: microseconds an image of a fine-tuning step after each, on one thread.
        base_us: the same of the whole network.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    step_us: tuple[float, ...]
    base_us: float


def probe_layers(plan: LayersPlan, dataset: Dataset) -> Layers:
    """Find the scales of a plan's network, and time a few training steps after each.

    Raises:
        ValueError: the network has fewer than two scales, or cannot be cut at one of them.
    """
    network = build_network(plan.model, len(dataset.classes), 0, size=dataset.size)
    network.eval()
    example = torch.rand(2, 3, *dataset.size)
    scales = find_scales(network, example)
    steps = [_step_us(tail_of(network, s, example), s.shape[1:], plan.tuning) for s in scales]
    numbers = [torch.Size(scale.shape[1:]).numel() for scale in scales]
    base_us = _step_us(network, (3, *dataset.size), plan.base)
    return Layers(tuple(s.name for s in scales), tuple(numbers), tuple(steps), base_us)


def build_layer_nodes(plan: LayersPlan, layers: Layers, dataset: Dataset) -> list[Node]:
    """Return the nodes of a plan; `Node.passes` are microseconds of one thread.

    Args:
        plan: the options.
        layers: of its network.
        dataset: its images.
    """
    nodes = [Node("data", "data", (), (-3, 0, 0), 0, lambda _: data_cell(plan))]
    # Given weights serve all seeds.
    for order, seed in enumerate(plan.seeds if plan.start == TRAIN else plan.seeds[:1]):
        nodes += _frozen_nodes(plan, layers, _Names.of(plan, seed), seed, order, dataset)
    tuned, tested = _tuning_images(plan, dataset), len(dataset.test.labels)
    for order, seed in enumerate(plan.seeds):
        names = _Names.of(plan, seed)
        for rank, method in enumerate((RANDOM, *plan.statistics)):
            for layer, step_us in zip(layers.names, layers.step_us, strict=True):
                for mode in MODES:
                    nodes.append(
                        Node(
                            f"{method}, {mode} at {layer}, seed {seed}",
                            "tune",
                            ("data", names.base, names.activations, names.locations),
                            (order, rank, 0),
                            int(step_us * (tuned * plan.tuning.epochs + tested * _FORWARD)),
                            _tune(plan, layers, names, method, layer, mode, seed),
                        )
                    )
    return nodes


@dataclass(frozen=True)
class _Names:
    """Names of the nodes that all fine-tunings of one network need."""

    base: str
    activations: str
    locations: str

    @classmethod
    def of(cls, plan: LayersPlan, seed: int) -> _Names:
        whose = f"seed {seed}" if plan.start == TRAIN else "given weights"
        return cls(f"network, {whose}", f"activations, {whose}", f"locations, {whose}")


def _tuning_images(plan: LayersPlan, dataset: Dataset) -> int:
    count = len(dataset.train.labels)
    return min(plan.tuning_images or count, count)


def _frozen_nodes(
    plan: LayersPlan, layers: Layers, names: _Names, seed: int, order: int, dataset: Dataset
) -> list[Node]:
    """Return the nodes of a seed's network, of its activations and of their salient locations."""
    trained = plan.base.epochs * len(dataset.train.labels) if plan.start == TRAIN else 0
    read = _tuning_images(plan, dataset) + len(dataset.test.labels)
    forward = int(layers.base_us * read * _FORWARD)
    return [
        Node(
            names.base,
            "base" if plan.start == TRAIN else "given",
            ("data",),
            (-2, order, 0),
            int(layers.base_us * trained),
            _base(plan, seed),
        ),
        Node(
            names.activations,
            "activations",
            ("data", names.base),
            (-1, order, 0),
            forward,
            _activations(plan, layers, names),
        ),
        Node(
            names.locations,
            "locations",
            ("data", names.base, names.activations),
            (-1, order, 1),
            # A statistic with its ranking costs about as much as the pass.
            (1 + len(plan.statistics)) * forward,
            _locations(plan, layers, names),
        ),
    ]


def _base(plan: LayersPlan, seed: int) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        common = _common(plan, done)
        if plan.start == TRAIN:
            return Cell("base", common | {"recipe": plan.base.in_spec(), "seed": seed})
        given: dict[str, Any] = {"start": plan.start}
        if plan.start != AS_BUILT:
            content = Path(plan.start).read_bytes()
            given["start_hash"] = short_hash(content)
        return Cell("given", common | given)

    return make


def _activations(plan: LayersPlan, layers: Layers, names: _Names) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        return Cell("activations", _frozen(plan, layers, done, names.base))

    return make


def _locations(plan: LayersPlan, layers: Layers, names: _Names) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        spec = {
            "activations": done[names.activations].id,
            "statistics": list(plan.statistics),
            "locations": asdict(plan.locations),
        }
        return Cell("locations", _frozen(plan, layers, done, names.base) | spec)

    return make


def _tune(
    plan: LayersPlan,
    layers: Layers,
    names: _Names,
    method: str,
    layer: str,
    mode: Mode,
    seed: int,
) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        spec = {
            "activations": done[names.activations].id,
            "locations": asdict(plan.locations),
            "locations_hash": done[names.locations].hashes[f"{method} {layer}"],
            "method": method,
            "layer": layer,
            "mode": mode,
            "fraction": plan.locations.fraction(mode),
            "recipe": plan.tuning.in_spec(),
            "seed": seed,
        }
        return Cell("tune", _frozen(plan, layers, done, names.base) | spec)

    return make


def _frozen(plan: LayersPlan, layers: Layers, done: Done, base: str) -> dict[str, Any]:
    return _common(plan, done) | {
        "base": done[base].id,
        "base_hash": done[base].hashes["model"],
        "layers": list(layers.names),
        "tuning_images": plan.tuning_images,
        "data_seed": plan.data_seed,
    }


def _common(plan: LayersPlan, done: Done) -> dict[str, Any]:
    data = done["data"]
    return {"data": data.id, "data_hash": data.hashes["data"], "model": plan.model}


def _step_us(part: torch.nn.Module, shape: Sequence[int], recipe: Recipe) -> float:
    """Return the microseconds of one training step per image, on one thread; the fastest of 4."""
    inputs = torch.rand(recipe.batch_size, *shape)
    if recipe.channels_last:
        inputs = inputs.to(memory_format=torch.channels_last)
    target = torch.zeros(recipe.batch_size, dtype=torch.int64)
    autocast = PRECISIONS[recipe.precision]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for _ in range(4):
            started = time.perf_counter()
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                logits = part(inputs)
            F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return 1e6 * min(seconds) / recipe.batch_size
