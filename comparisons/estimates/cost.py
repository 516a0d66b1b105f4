"""Cost of a plan: cells, trainings, time, disk space and finishing time."""

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
from evaluation.datasets.load import Extent, channels_of, has_object_masks
from evaluation.masking.level_files import bytes_an_image
from evaluation.networks.build import build_network

__all__ = ["TRAININGS", "Cost", "Line", "cost_of", "network_bytes"]

# Kinds of cells that train a network.
TRAININGS = ("base", "fold", "permuted", "fine_tuned", "retrain", "mask_only")
# Titles of the lines that no method owns, by the kind of their cells.
_SHARED = {
    "data": "Images",
    "pretrained": "Given weights",
    "base": "Unmasked networks",
    "fold": "Networks without a fold",
    "permuted": "Networks on permuted labels",
    "fine_tuned": "Networks fine-tuned for measures",
}


@dataclass(frozen=True)
class Line:
    """One line of the cost: a method, or cells that all methods share.

    Args:
        name: key of the method, or kind of the shared cells.
        title: name in the table.
        cells: number of cells.
        trainings: networks to train.
        work: of all cells.
        seconds: device time of all cells.
        training_seconds: the part of it that training takes.
        staged_bytes: of memory maps.
        stored_bytes: of compressed levels and networks.
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
    """The cost of a plan.

    Args:
        lines: shared ones first, then the methods in the plan's order.
        schedules: for growing numbers of workers, the last for the number asked for.
        critical: the longest chain of cells that need each other, with the seconds of each.
        timed_alone: number of cells that time a method on an otherwise idle machine; their time
            is not counted.
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
        """A line's share of the device time; 0 if nothing takes time."""
        return line.seconds / self.total.seconds if self.total.seconds else 0.0

    @property
    def schedule(self) -> Schedule:
        """The schedule with the number of workers that was asked for."""
        return self.schedules[-1]


def cost_of(
    plan: Plan,
    extent: Extent,
    size: tuple[int, ...],
    throughput: Throughput,
    *,
    workers: int,
    rank_efficiency: float = 1.0,
    nodes: Sequence[Node] | None = None,
) -> Cost:
    """The cost of a plan: its cells counted and its schedule simulated.

    Args:
        plan: the options.
        extent: numbers of images and classes.
        size: height and width of the images; of volumes three sides, of signals one.
        throughput: of one process on one device.
        workers: processes that work at once, each on a device of its own.
        rank_efficiency: speed of n ranks over n times the speed of one.
        nodes: the plan's cells, if they are made already.

    Raises:
        ValueError: the efficiency is outside (0, 1], or a training has more ranks than workers.
    """
    if not 0.0 < rank_efficiency <= 1.0:
        raise ValueError(f"rank efficiency {rank_efficiency:g}: expected more than 0 and at most 1")
    if nodes is None:
        nodes = build_nodes(plan, train_images=extent.train, test_images=extent.test)
    rates = throughput.rates
    tasks = [_task(node, plan, rates, rank_efficiency) for node in nodes]
    images = extent.train + extent.test
    state = network_bytes(plan, extent.classes, size) + 8 * images
    masks = has_object_masks(plan.data)
    channels = channels_of(plan.data)
    (alone, _), (staged, stored) = (
        bytes_an_image(size, maps, cuts=plan.cuts, object_masks=masks, channels=channels)
        for maps in (0, 1)
    )

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
            sum(_training_s(t.node, t.width, rates, rank_efficiency) * t.width for t in own),
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


def network_bytes(plan: Plan, classes: int, size: tuple[int, ...]) -> int:
    """Bytes of the network's weights and buffers.

    Raises:
        ValueError: the network cannot be used.
    """
    channels = channels_of(plan.data)
    network = build_network(plan.model, plan.outputs(classes), 0, size=size, channels=channels)
    return sum(each.numel() * each.element_size() for each in network.state_dict().values())


def _task(node: Node, plan: Plan, rates: Rates, rank_efficiency: float) -> Task:
    width = plan.recipe.ranks if node.stage in TRAININGS else 1
    # Rank 0 tests alone, while the others wait.
    rest = rates.seconds(replace(node.work, training=0))
    return Task(node, _training_s(node, width, rates, rank_efficiency) + rest, width)


def _training_s(node: Node, width: int, rates: Rates, rank_efficiency: float) -> float:
    faster = 1.0 if width == 1 else width * rank_efficiency
    return node.work.training / (rates.training * faster)


def _numbers(workers: int, fewest: int) -> list[int]:
    """Numbers of workers of the schedules: doubled from the fewest, and the one asked for."""
    numbers = [fewest]
    while 2 * numbers[-1] < workers:
        numbers.append(2 * numbers[-1])
    return numbers if numbers[-1] == workers else [*numbers, workers]
