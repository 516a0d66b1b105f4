"""What a plan takes: cells, time at a throughput, disk, and when it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from comparisons.estimates.schedule import Schedule, Task, critical_path, simulate
from comparisons.estimates.throughput import Throughput
from comparisons.graph.nodes import Node, build_nodes
from comparisons.methods import get_method
from comparisons.methods.work import Rates, Work
from comparisons.plans.plan import Plan
from evaluation.datasets.load import Extent, has_object_masks
from evaluation.masking.level_files import bytes_an_image
from evaluation.training.networks import build_network

__all__ = ["TRAININGS", "Cost", "Line", "cost_of", "network_bytes"]

# Kinds of cells that train a network.
TRAININGS = ("base", "fold", "permuted", "retrain", "mask_only")
# Lines that belong to no method, by the kinds of their cells.
_SHARED = {
    "data": "Images",
    "pretrained": "Given weights",
    "base": "Unmasked networks",
    "fold": "Networks without a fold",
    "permuted": "Networks on permuted labels",
}


@dataclass(frozen=True)
class Line:
    """One line of the cost: a method, or what all methods share.

    Args:
        name: key of the method, or kind of the shared cells.
        title: how the table calls it.
        cells: how many there are.
        trainings: networks to train.
        work: of all its cells.
        seconds: time of all devices that its cells hold.
        training_seconds: of these, what training itself takes.
        staged_bytes: unpacked in memory maps.
        stored_bytes: compressed levels, and networks.
    """

    name: str
    title: str
    cells: int
    trainings: int
    work: Work
    seconds: float
    training_seconds: float
    staged_bytes: float
    stored_bytes: float


@dataclass(frozen=True)
class Cost:
    """What a plan takes.

    Args:
        lines: shared ones first, then the methods in the plan's order.
        schedules: the finishing time for numbers of workers, the last for that asked for.
        critical: the longest chain of cells that need each other, and the seconds of each.
        timed_alone: cells that time a method on an otherwise idle machine; not counted.
    """

    lines: tuple[Line, ...]
    schedules: tuple[Schedule, ...]
    critical: tuple[tuple[str, float], ...]
    timed_alone: int

    @cached_property
    def total(self) -> Line:
        """The sum of all lines."""
        work = sum((line.work for line in self.lines), Work())
        return Line(
            "total",
            "All",
            sum(line.cells for line in self.lines),
            sum(line.trainings for line in self.lines),
            work,
            sum(line.seconds for line in self.lines),
            sum(line.training_seconds for line in self.lines),
            sum(line.staged_bytes for line in self.lines),
            sum(line.stored_bytes for line in self.lines),
        )

    def share(self, line: Line) -> float:
        """A line's share of the time of all devices; 0 where nothing takes time."""
        return line.seconds / self.total.seconds if self.total.seconds else 0.0

    @property
    def schedule(self) -> Schedule:
        """With the number of workers that was asked for."""
        return self.schedules[-1]


def cost_of(
    plan: Plan,
    extent: Extent,
    size: tuple[int, int],
    throughput: Throughput,
    *,
    workers: int,
    gang_efficiency: float = 1.0,
    nodes: Sequence[Node] | None = None,
) -> Cost:
    """Count a plan, and play its schedule through.

    Args:
        plan: the options.
        extent: how many images there are, of how many classes.
        size: height and width of the images.
        throughput: of one process on one device.
        workers: processes that work at once, each on a device of its own.
        gang_efficiency: of processes that train one network together, the share of their
            number by which they are faster.
        nodes: the plan's cells, where they are made already.

    Raises:
        ValueError: an efficiency outside (0, 1], or too few workers for a training's processes.
    """
    if not 0.0 < gang_efficiency <= 1.0:
        raise ValueError(f"gang efficiency {gang_efficiency:g}: expected more than 0 and at most 1")
    if nodes is None:
        nodes = build_nodes(plan, train_images=extent.train, test_images=extent.test)
    rates = throughput.rates
    tasks = [_task(node, plan, rates, gang_efficiency) for node in nodes]
    images = extent.train + extent.test
    state = network_bytes(plan, extent.classes, size) + 8 * images
    masks = has_object_masks(plan.data)
    alone, _ = bytes_an_image(size, 0, cuts=plan.cuts, object_masks=masks)
    staged, stored = bytes_an_image(size, 1, cuts=plan.cuts, object_masks=masks)

    def line(name: str, title: str, own: Sequence[Task]) -> Line:
        work = sum((task.node.work for task in own), Work())
        of_images = alone * images if name == "data" else 0.0
        return Line(
            name,
            title,
            len(own),
            sum(task.node.stage in TRAININGS for task in own),
            work,
            sum(task.seconds * task.width for task in own),
            sum(_training_s(t.node, t.width, rates, gang_efficiency) * t.width for t in own),
            (staged - alone) * work.levels + of_images,
            stored * work.levels + state * work.networks,
        )

    of_all = [task for task in tasks if task.node.method is None]
    stages = dict.fromkeys(task.node.stage for task in of_all)
    shared = [
        line(stage, _SHARED.get(stage, stage), [t for t in of_all if t.node.stage == stage])
        for stage in stages
    ]
    methods = [
        line(name, get_method(name).title, [t for t in tasks if t.node.method == name])
        for name in plan.methods
    ]
    return Cost(
        (*shared, *methods),
        tuple(simulate(tasks, number) for number in _numbers(workers, plan.recipe.ranks)),
        tuple((task.node.name, task.seconds) for task in critical_path(tasks)),
        sum(node.stage == "profile" for node in nodes),
    )


def network_bytes(plan: Plan, classes: int, size: tuple[int, int]) -> int:
    """Bytes of the network's weights and buffers.

    Raises:
        ValueError: the network cannot be used.
    """
    network = build_network(plan.model, classes, 0, size=size)
    return sum(each.numel() * each.element_size() for each in network.state_dict().values())


def _task(node: Node, plan: Plan, rates: Rates, gang_efficiency: float) -> Task:
    width = plan.recipe.ranks if node.stage in TRAININGS else 1
    # The first process of a gang tests alone, and the others wait.
    rest = rates.seconds(replace(node.work, training=0))
    return Task(node, _training_s(node, width, rates, gang_efficiency) + rest, width)


def _training_s(node: Node, width: int, rates: Rates, gang_efficiency: float) -> float:
    faster = 1.0 if width == 1 else width * gang_efficiency
    return node.work.training / (rates.training * faster)


def _numbers(workers: int, fewest: int) -> list[int]:
    """Numbers of workers to tell of: doubled from the fewest, and the one asked for."""
    numbers = [fewest]
    while 2 * numbers[-1] < workers:
        numbers.append(2 * numbers[-1])
    return numbers if numbers[-1] == workers else [*numbers, workers]
