"""The cells that a plan means, what each needs, and what they will cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional as F

from comparisons.cells import Cell
from comparisons.measures import MEASURES, Measure
from comparisons.methods import METHODS
from comparisons.plan import Plan
from evaluation.masking import Mode
from evaluation.networks import build_network
from evaluation.records import CellResult

__all__ = ["Estimate", "Node", "build_nodes", "estimate"]

Done = Mapping[str, CellResult]

_TIE_SEED = 0
_PROFILE_BATCH = 16
_TRAININGS = ("base", "permuted", "retrain", "mask_only")
# Part of the cell's id: one from before these were counted is measured anew.
_COUNTED = ("flops", "elementwise", "transcendental", "reduction")


@dataclass(frozen=True)
class Node:
    """A cell before the hashes of what it needs are known.

    Args:
        name: unique in the plan, for people.
        stage: the kind of the cell.
        needs: names of the nodes whose results `make` reads.
        priority: lower goes first among the nodes that are ready.
        passes: images through the network, a training step counted as one and the gradient
            of a method as one; what the time left is reckoned by.
        make: results of finished nodes by name to the full specification.
        alone: runs while nothing else does, since it is timed.
    """

    name: str
    stage: str
    needs: tuple[str, ...]
    priority: tuple[int, int, int]
    passes: int
    make: Callable[[Done], Cell]
    alone: bool = False


def build_nodes(plan: Plan, *, train_images: int, test_images: int) -> list[Node]:
    """Every cell of a plan.

    Args:
        plan: the options.
        train_images: how many training images there are, for the cost.
        test_images: how many test images there are, for the cost.

    >>> plan = Plan("shapes", "resnet9", ("random",), fractions=(0.5,), mask_only=())
    >>> [node.name for node in build_nodes(plan, train_images=8, test_images=8)]
    ['data', 'unmasked, seed 0', 'maps of random', 'random, roar 50 %, seed 0', 'cost of random']
    """
    training = plan.recipe.epochs * train_images
    images = train_images + test_images
    nodes = [Node("data", "data", (), (-2, 0, 0), 0, lambda _: data_cell(plan))]
    for order, seed in enumerate(plan.seeds):
        make = _base(plan, seed)
        nodes.append(Node(_base_name(seed), "base", ("data",), (-1, order, 0), training, make))
        if any(MEASURES[name].needs_permuted for name in plan.measures):
            name, make = _permuted_name(seed), _base(plan, seed, kind="permuted")
            nodes.append(Node(name, "permuted", ("data",), (-1, order, 1), training, make))
    for order, method in enumerate(plan.methods):
        maps, passes = _maps_name(method), METHODS[method].passes * images
        needs = ("data", _base_name(plan.seeds[0]))
        nodes.append(Node(maps, "maps", needs, (0, order, 0), passes, _maps(plan, method)))
        for kind, mode, fraction, seed in _trainings(plan, method):
            words = "mask only, " if kind == "mask_only" else ""
            nodes.append(
                Node(
                    f"{method}, {words}{mode} {100 * fraction:g} %, seed {seed}",
                    kind,
                    ("data", maps),
                    (plan.seeds.index(seed), order, 1),
                    training,
                    _retraining(plan, kind, method, mode, fraction, seed),
                )
            )
        nodes += _measurings(plan, method, order, test_images)
        # After everything else, when the machine is quiet.
        make, last = _profile(plan, method), (len(plan.seeds), order, 2)
        nodes.append(Node(f"cost of {method}", "profile", needs, last, 0, make, alone=True))
    return nodes


def data_cell(plan: Plan) -> Cell:
    """The cell that reads or makes the images of a plan."""
    request = {
        "train_images": plan.train_images,
        "test_images": plan.test_images,
        "image_size": plan.image_size,
        "seed": plan.data_seed,
    }
    return Cell("data", {"source": plan.data, "request": request})


def _base_name(seed: int) -> str:
    return f"unmasked, seed {seed}"


def _permuted_name(seed: int) -> str:
    return f"labels permuted, seed {seed}"


def _maps_name(method: str) -> str:
    return f"maps of {method}"


def _trainings(plan: Plan, method: str) -> Iterator[tuple[str, Mode, float, int]]:
    """Kind, mode, fraction and seed of every training a method needs."""
    for seed in plan.seeds_of(method):
        for mode in plan.modes:
            for fraction in plan.fractions:
                if not (mode == "kar" and _has_dual(plan, method, fraction)):
                    yield "retrain", mode, fraction, seed
    for mode, fraction in plan.mask_only:
        yield "mask_only", mode, fraction, plan.seeds[0]


def _has_dual(plan: Plan, method: str, fraction: float) -> bool:
    """Whether another training of the plan is the same experiment, in the other mode."""
    both = set(plan.modes) == {"roar", "kar"}
    return METHODS[method].self_dual and both and round(1.0 - fraction, 10) in plan.fractions


def _measurings(plan: Plan, method: str, order: int, test_images: int) -> Iterator[Node]:
    """A node a measure and seed: each seed's own network is explained."""
    images = min(plan.measure_images, test_images)
    for seed in plan.seeds_of(method):
        for measure in (MEASURES[name] for name in plan.measures):
            permuted = (_permuted_name(seed),) if measure.needs_permuted else ()
            yield Node(
                f"{measure.name} of {method}, seed {seed}",
                "measure",
                ("data", _base_name(seed), *permuted),
                (plan.seeds.index(seed), order, 2),
                images * (measure.maps * METHODS[method].passes + measure.forwards),
                _measuring(plan, measure, method, seed),
            )


def _base(plan: Plan, seed: int, kind: str = "base") -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        return Cell(kind, _common(plan, done) | {"recipe": asdict(plan.recipe), "seed": seed})

    return make


def _maps(plan: Plan, method: str) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        spec = {"cuts": list(plan.cuts), "tie_seed": _TIE_SEED}
        return Cell("maps", _explained(plan, done, method) | spec)

    return make


def _profile(plan: Plan, method: str) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        measured = {"batch": _PROFILE_BATCH, "counted": _COUNTED}
        return Cell("profile", _explained(plan, done, method) | measured)

    return make


def _retraining(
    plan: Plan, kind: str, method: str, mode: Mode, fraction: float, seed: int
) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        maps = done[_maps_name(method)]
        spec = {
            "recipe": asdict(plan.recipe),
            "seed": seed,
            "method": method,
            "parameters": dict(METHODS[method].parameters),
            "maps": maps.id,
            "maps_hash": maps.hashes["maps"],
            "cuts": list(plan.cuts),
            "mode": mode,
            "fraction": fraction,
            "fill": plan.fill,
            "dual": kind == "retrain" and mode == "roar" and _has_dual(plan, method, fraction),
        }
        return Cell(kind, _common(plan, done) | spec)

    return make


def _measuring(plan: Plan, measure: Measure, method: str, seed: int) -> Callable[[Done], Cell]:
    def make(done: Done) -> Cell:
        spec = {"measure": measure.name, "images": plan.measure_images, "seed": seed}
        if measure.needs_permuted:
            permuted = done[_permuted_name(seed)]
            spec |= {"permuted": permuted.id, "permuted_hash": permuted.hashes["model"]}
        return Cell("measure", _explained(plan, done, method, seed) | spec)

    return make


def _explained(plan: Plan, done: Done, method: str, seed: int | None = None) -> dict[str, Any]:
    """What every cell depends on that applies a method to a frozen network: the first seed's."""
    base = done[_base_name(plan.seeds[0] if seed is None else seed)]
    return _common(plan, done) | {
        "base": base.id,
        "base_hash": base.hashes["model"],
        "method": method,
        "parameters": dict(METHODS[method].parameters),
    }


def _common(plan: Plan, done: Done) -> dict[str, Any]:
    data = done["data"]
    return {"data": data.id, "data_hash": data.hashes["data"], "model": plan.model}


@dataclass(frozen=True)
class Estimate:
    """What a plan will take on this machine.

    Args:
        trainings: networks to train.
        training_images: images through them, all epochs counted.
        attribution_passes: images through the network for all maps, each with its gradient.
        disk_bytes: images and staged levels; compressed levels take less.
        seconds: time, from a short trial of the network on this machine.
    """

    trainings: int
    training_images: int
    attribution_passes: int
    disk_bytes: int
    seconds: float


def estimate(
    plan: Plan,
    nodes: list[Node],
    *,
    classes: int,
    size: tuple[int, int],
    images: int,
    workers: int,
) -> Estimate:
    """Count the work of a plan, and time a few training steps to say how long it takes.

    Args:
        plan: the options.
        nodes: its cells, finished ones left out.
        classes: number of classes.
        size: height and width of the images.
        images: training and test images together.
        workers: processes that share the work.
    """
    trained = [node.passes for node in nodes if node.stage in _TRAININGS]
    passes = sum(node.passes for node in nodes if node.stage in ("maps", "measure"))
    pixels = size[0] * size[1]
    seconds_per_image = _time_training_step(plan, classes, size)
    return Estimate(
        trainings=len(trained),
        training_images=sum(trained),
        attribution_passes=passes,
        disk_bytes=images * pixels * (3 + len(plan.methods)),
        seconds=(sum(trained) + passes) * seconds_per_image / workers,
    )


def _time_training_step(plan: Plan, classes: int, size: tuple[int, int]) -> float:
    """Seconds an image of one training step, on one thread; the fastest of a few."""
    network = build_network(plan.model, classes, 0, size=size).train()
    inputs = torch.zeros(plan.recipe.batch_size, 3, *size)
    if plan.recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
        inputs = inputs.to(memory_format=torch.channels_last)
    target = torch.zeros(plan.recipe.batch_size, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for _ in range(4):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.recipe.precision == "bfloat16"):
                output = network(inputs)
            logits = output if isinstance(output, torch.Tensor) else output[0]
            F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(seconds) / plan.recipe.batch_size
