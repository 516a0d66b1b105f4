"""Several processes of a Ray cluster that train one network, ganged by a placement group."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from torch.distributed import Store as MeetingStore  # type: ignore[attr-defined]
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from comparisons.cells.cell import Cell
from comparisons.cells.run import assist_cell, run_cell
from comparisons.engines.engine import RETRIES, WorkerLost
from comparisons.engines.ranks import PATIENCE, is_broken_connection, joined
from comparisons.engines.resources import Resources
from comparisons.engines.worker import set_up_worker
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["RayGang", "set_up_ray_worker"]

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_FOR_OTHER_RANKS = 30.0


def set_up_ray_worker(resources: Resources, here: str) -> None:
    """Set up a process that Ray started, as one that was started here.

    Args:
        resources: what it has.
        here: the driver's folder, which a model may be named by a path from.
    """
    if Path(here).is_dir():
        os.chdir(here)
    set_up_worker(resources.threads, resources.memory_budget_mib)


class RayGang:
    """A cell whose network is trained by several processes, and where they run.

    Args:
        cell: what to do.
        store: where its inputs are and its result goes.
        resources: of each process.
        here: the driver's folder.
        stopping: set when the run ends.
    """

    def __init__(
        self,
        cell: Cell,
        store: Store,
        resources: Resources,
        here: str,
        stopping: threading.Event,
    ) -> None:
        import ray
        import ray.util.scheduling_strategies

        self._ray: Any = ray
        self._cell, self._store, self._resources = cell, store, resources
        self._here, self._stopping = here, stopping

    def run(self) -> CellResult:
        """Run the cell, again as a whole where a rank is lost.

        Raises:
            WorkerLost: one was lost each time.
        """
        lost = 0
        while True:
            try:
                return self._attempt()
            except (self._ray.exceptions.RayActorError, _ConnectionBroken) as error:
                lost += 1
                if self._stopping.is_set():
                    raise
                if lost > RETRIES:
                    raise WorkerLost(
                        f"a rank or its node was lost {lost} times ({error})"
                    ) from error

    def _attempt(self) -> CellResult:
        ray, cell = self._ray, self._cell
        bundle = {"CPU": self._resources.cpus, "GPU": self._resources.gpus}
        bundle = {name: share for name, share in bundle.items() if share}
        # On one node where there is room: gradients travel at every step.
        group = ray.util.placement_group([bundle] * cell.ranks, strategy="PACK")
        ranks: list[Any] = []
        try:
            while not group.wait(timeout_seconds=_SECONDS_BETWEEN_LOOKS):
                if self._stopping.is_set():
                    raise _ConnectionBroken("the run was stopped")
            ranks += [
                ray.remote(_Rank)
                .options(
                    num_cpus=self._resources.cpus,
                    num_gpus=self._resources.gpus,
                    scheduling_strategy=ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
                        placement_group=group, placement_group_bundle_index=rank
                    ),
                )
                .remote(cell, self._store, self._resources, self._here, rank)
                for rank in range(cell.ranks)
            ]
            meeting = ray.get(ranks[0].open_meeting.remote())
            return self._joint_result([rank.work.remote(*meeting) for rank in ranks])
        finally:
            for rank in ranks:
                ray.kill(rank)
            ray.util.remove_placement_group(group)

    def _joint_result(self, works: list[Any]) -> CellResult:
        """What rank 0 returns once all are through; the reason if one is not."""
        ray, pending = self._ray, list(works)
        try:
            while pending:
                ended, pending = ray.wait(pending, num_returns=1)
                ray.get(ended)
        except Exception as error:
            # A rank that is lost breaks the connections of the others, which may be heard first.
            if pending:
                ray.wait(pending, num_returns=len(pending), timeout=_SECONDS_FOR_OTHER_RANKS)
            errors = [error, *filter(None, map(self._error_of, pending))]
            for found in errors:
                if isinstance(found, ray.exceptions.RayActorError):
                    raise found from error
            for found in errors:
                if not is_broken_connection(found):
                    raise found from error
            raise _ConnectionBroken(str(error).strip().rpartition("\n")[2]) from error
        result: CellResult = ray.get(works[0])
        return result

    def _error_of(self, work: Any) -> Exception | None:
        try:
            self._ray.get(work, timeout=0)
        except self._ray.exceptions.GetTimeoutError:
            return None
        except Exception as error:
            return error
        return None


class _ConnectionBroken(RuntimeError):
    """The ranks lost sight of each other, and none says why."""


class _Rank:
    """One process of a gang, as an actor in its place of the placement group."""

    def __init__(self, cell: Cell, store: Store, resources: Resources, here: str, rank: int):
        set_up_ray_worker(resources, here)
        self._cell, self._store, self._resources, self._rank = cell, store, resources, rank
        self._meeting: MeetingStore | None = None

    def open_meeting(self) -> tuple[str, int]:
        """Where the ranks of this attempt meet: an address and a port that nobody had before."""
        import ray

        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._meeting = self._store_at(host, 0, leads=True)
        return host, self._meeting.port

    def work(self, host: str, port: int) -> CellResult | None:
        """Do the cell as this rank; rank 0 returns its result."""
        if self._meeting is None:
            self._meeting = self._store_at(host, port, leads=False)
        device = self._resources.device
        with joined(self._rank, self._cell.ranks, self._meeting, device):
            if self._rank == 0:
                return run_cell(self._cell, self._store, device=device)
            assist_cell(self._cell, self._store, device=device)
            return None

    def _store_at(self, host: str, port: int, *, leads: bool) -> TCPStore:
        return TCPStore(
            host, port, self._cell.ranks, leads, timeout=PATIENCE, wait_for_workers=False
        )
