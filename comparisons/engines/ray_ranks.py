"""Ranks on a Ray cluster: actors of one placement group that train one network."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from torch.distributed import Store as RendezvousStore  # type: ignore[attr-defined]
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from comparisons.cells.cell import Cell
from comparisons.cells.run import assist_cell, run_cell
from comparisons.engines.engine import RETRIES, WorkerLost
from comparisons.engines.ranks import PATIENCE, is_broken_connection, joined
from comparisons.engines.resources import Resources
from comparisons.engines.worker import set_up_worker
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["RayRanks", "set_up_ray_worker"]

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_FOR_OTHER_RANKS = 30.0


def set_up_ray_worker(resources: Resources, here: str) -> None:
    """Set up a process that Ray started as the local engine sets up its own.

    Args:
        resources: of the process.
        here: the driver's working directory, from which a model's path may be relative.
    """
    if Path(here).is_dir():
        os.chdir(here)
    set_up_worker(resources.threads, resources.memory_budget_mib)


class RayRanks:
    """A cell whose network is trained by several ranks, each an actor of the cluster.

    Args:
        cell: a cell of several ranks.
        store: holds its inputs and its result.
        resources: of each process.
        here: the driver's working directory.
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
        """Run the cell; start all ranks again if one is lost.

        Raises:
            WorkerLost: a rank was lost at every attempt.
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
        # On one node if there is room, since gradients are exchanged at every step.
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
            rendezvous = ray.get(ranks[0].open_rendezvous.remote())
            return self._joint_result([rank.run.remote(*rendezvous) for rank in ranks])
        finally:
            for rank in ranks:
                ray.kill(rank)
            ray.util.remove_placement_group(group)

    def _joint_result(self, runs: list[Any]) -> CellResult:
        """The result of rank 0 after all ranks have finished; raises the reason if one has not."""
        ray, pending = self._ray, list(runs)
        try:
            while pending:
                ended, pending = ray.wait(pending, num_returns=1)
                ray.get(ended)
        except Exception as error:
            # A lost rank breaks the connections of the others, whose errors may come first.
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
        result: CellResult = ray.get(runs[0])
        return result

    def _error_of(self, run: Any) -> Exception | None:
        try:
            self._ray.get(run, timeout=0)
        except self._ray.exceptions.GetTimeoutError:
            return None
        except Exception as error:
            return error
        return None


class _ConnectionBroken(RuntimeError):
    """The connections between ranks broke, and no rank says why."""


class _Rank:
    """One rank, as an actor in its bundle of the placement group."""

    def __init__(self, cell: Cell, store: Store, resources: Resources, here: str, rank: int):
        set_up_ray_worker(resources, here)
        self._cell, self._store, self._resources, self._rank = cell, store, resources, rank
        self._rendezvous: RendezvousStore | None = None

    def open_rendezvous(self) -> tuple[str, int]:
        """Open the rendezvous store of this attempt; return its address and a free port."""
        import ray

        host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._rendezvous = self._store_at(host, 0, leads=True)
        return host, self._rendezvous.port

    def run(self, host: str, port: int) -> CellResult | None:
        """Run the cell as this rank; rank 0 returns its result."""
        if self._rendezvous is None:
            self._rendezvous = self._store_at(host, port, leads=False)
        device = self._resources.device
        with joined(self._rank, self._cell.ranks, self._rendezvous, device):
            if self._rank == 0:
                return run_cell(self._cell, self._store, device=device)
            assist_cell(self._cell, self._store, device=device)
            return None

    def _store_at(self, host: str, port: int, *, leads: bool) -> TCPStore:
        return TCPStore(
            host, port, self._cell.ranks, leads, timeout=PATIENCE, wait_for_workers=False
        )
