"""Selection of the engine: its name, number of workers and their resources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from comparisons.budget import usual_memory_budget_mib
from comparisons.engines.engine import Executor
from comparisons.engines.local import LocalExecutor
from comparisons.engines.on_ray import RayExecutor
from comparisons.engines.resources import Resources
from evaluation.storage.store import Store
from evaluation.training.recipe import Recipe

__all__ = ["ENGINES", "Engine", "engine_of", "in_ranks"]

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Engine:
    """An engine with its options.

    Args:
        name: ``local`` for processes of this machine, ``ray`` for tasks of a cluster.
        workers: processes that work at once; None for as many as there is room for.
        resources: of each process.
        address: of the cluster to join; None to start Ray here.

    >>> Engine(workers=2).name
    'local'
    """

    name: str = "local"
    workers: int | None = None
    resources: Resources = field(default_factory=Resources)
    address: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.name not in ENGINES:
            raise ValueError(f"engine {self.name!r}: expected one of {', '.join(ENGINES)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers}: expected at least 1")
        if self.address is not None and self.name != "ray":
            raise ValueError(f"--address {self.address} is of a Ray cluster: give --engine ray too")

    @contextmanager
    def running(self, store: Store) -> Iterator[Executor]:
        """An executor for the cells of a store; its processes end with the block."""
        if self.name == "ray":
            with RayExecutor.running(
                store, address=self.address, workers=self.workers, resources=self.resources
            ) as cluster:
                yield cluster
        else:
            workers = self.workers or self.resources.workers_here()
            with LocalExecutor.running(store, workers=workers, resources=self.resources) as here:
                yield here


def in_ranks(recipe: Recipe, gpus_per_cell: float | None) -> Recipe:
    """A recipe with one rank for each GPU of a cell.

    Args:
        recipe: keeps its own number of ranks if cells do not have several GPUs.
        gpus_per_cell: as typed.

    Raises:
        ValueError: the numbers of GPUs and ranks contradict each other.

    >>> [in_ranks(Recipe(), gpus).ranks for gpus in (None, 0.5, 4)]
    [1, 1, 4]
    """
    if gpus_per_cell is None or gpus_per_cell <= 1:
        return recipe
    if gpus_per_cell != int(gpus_per_cell) or recipe.ranks not in (1, int(gpus_per_cell)):
        raise ValueError(
            f"--gpus-per-cell {gpus_per_cell:g} with --ranks {recipe.ranks}: expected a whole "
            "number of GPUs, one for each rank"
        )
    return replace(recipe, ranks=int(gpus_per_cell))


def engine_of(
    name: str,
    *,
    address: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    cpus_per_cell: float | None = None,
    gpus_per_cell: float | None = None,
    ranks: int = 1,
    device: str = "cpu",
    memory_budget_mib: int | None = None,
) -> Engine:
    """The engine of a command's options.

    The ranks of a training share the processors and GPUs of its cell. Cells that do not train are
    one process and take the share of one rank.

    Args:
        name: of the engine.
        address: of a cluster.
        workers: processes that work at once.
        threads: of each process.
        cpus_per_cell: processors reserved for a training; by default its threads.
        gpus_per_cell: GPUs reserved for a training; by default one a rank, none on the CPU.
        ranks: processes that train one network.
        device: device of networks.
        memory_budget_mib: MiB that one pass of a saliency method may hold; None for the device's
            default.

    Raises:
        ValueError: options contradict each other; the message says which and what to do.

    >>> engine_of("ray", threads=2, ranks=2, cpus_per_cell=8).resources.cpus
    4.0
    """
    if memory_budget_mib is None:
        memory_budget_mib = usual_memory_budget_mib(device)
    resources = Resources(device, threads, memory_budget_mib, cpus=float(threads))
    if cpus_per_cell is not None:
        resources = replace(resources, cpus=cpus_per_cell / ranks)
    if not resources.on_cpu:
        gpus = 1.0 if gpus_per_cell is None else gpus_per_cell / ranks
        if ranks > 1 and gpus < 1:
            raise ValueError(
                f"--gpus-per-cell {gpus_per_cell:g} for {ranks} ranks: expected a GPU for each"
            )
        resources = replace(resources, gpus=gpus)
    elif gpus_per_cell:
        raise ValueError(f"--gpus-per-cell {gpus_per_cell:g} on the CPU: give --device cuda")
    engine = Engine(name, workers, resources, address)
    there = workers or resources.workers_here()
    if name == "local" and ranks > there:
        raise ValueError(
            f"a training of {ranks} ranks does not fit into {there} worker"
            f"{'s' if there > 1 else ''}: give more --workers, or fewer --ranks"
        )
    return engine
