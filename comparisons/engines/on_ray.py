"""The Ray engine: cells as tasks of a Ray cluster, started here or joined.

The extra ``cluster`` installs Ray. Every node must see the run's directory under the same path:
cells read and write it, and Ray carries only specifications and results. If a worker or its node is
lost, Ray starts the task again on another node.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from math import ceil, floor
from pathlib import Path
from typing import Any

from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import RETRIES, WorkerLost
from comparisons.engines.ray_ranks import RayRanks, set_up_ray_worker
from comparisons.engines.resources import Resources
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["RayExecutor", "RayMissing"]

# Cells pass files to each other, not objects: this holds specifications and results alone.
_OBJECT_STORE_BYTES = 128 * 2**20
_SECONDS_BETWEEN_COUNTS = 2.0
_SECONDS_TO_ANSWER = 10.0


class RayMissing(RuntimeError):
    """Ray is not installed."""


class RayExecutor:
    """Tasks of a Ray cluster, each with its stated share of the processors and GPUs.

    Args:
        store: the run's directory, on a file system that all nodes share.
        address: of a running cluster, ``auto`` for that of this node; None to start Ray here.
        workers: number of processes that may work at once; None for as many as the cluster has
            room for.
        resources: of each process.

    Raises:
        RayMissing: Ray is not installed.
        ConnectionError: no cluster answers at `address`.
    """

    def __init__(
        self, store: Store, *, address: str | None, workers: int | None, resources: Resources
    ) -> None:
        self._ray = _started(address, workers, resources)
        self._store = copy.copy(store)
        self._store.root = store.root.absolute()
        self._workers = workers
        self._resources = resources
        self._here = str(Path.cwd())
        self._counted, self._room = 0.0, 0
        self._tasks: dict[Future[CellResult], Any] = {}
        self._leading: set[threading.Thread] = set()
        self._stopping = threading.Event()
        self._run = self._ray.remote(_run).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=RETRIES
        )

    @property
    def slots(self) -> int:
        """Number of processes that the living nodes have room for, up to `workers`."""
        if time.monotonic() - self._counted > _SECONDS_BETWEEN_COUNTS:
            alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._room = sum(map(self._room_of, alive))
            self._counted = time.monotonic()
        return self._room if self._workers is None else min(self._workers, self._room)

    def about(self) -> str:
        """The cluster's nodes, processors and GPUs in words."""
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        has = self._ray.cluster_resources()
        gpus = f", {has['GPU']:g} GPU{'' if has['GPU'] == 1 else 's'}" if "GPU" in has else ""
        return (
            f"Ray {self._ray.__version__}: {nodes} node{'s' if nodes > 1 else ''}, "
            f"{has.get('CPU', 0):g} CPU{'' if has.get('CPU') == 1 else 's'}{gpus}; "
            f"{self.slots} worker{'s' if self.slots > 1 else ''}"
        )

    def submit(self, cell: Cell) -> Future[CellResult]:
        """Start a cell as a task; a cell of several ranks as one actor a rank."""
        outcome: Future[CellResult] = Future()
        if cell.ranks == 1:
            task = self._run.remote(cell, self._store, self._resources, self._here)
            self._tasks[outcome] = task
            task.future().add_done_callback(lambda ended: self._ended(outcome, ended))
        else:
            ranks = RayRanks(cell, self._store, self._resources, self._here, self._stopping)
            thread = threading.Thread(target=self._lead, args=(ranks, outcome), daemon=True)
            self._leading.add(thread)
            thread.start()
        return outcome

    def _ended(self, outcome: Future[CellResult], ended: Future[CellResult]) -> None:
        self._tasks.pop(outcome, None)
        if ended.cancelled() or self._stopping.is_set():
            return
        error = ended.exception()
        if error is None:
            outcome.set_result(ended.result())
        else:
            outcome.set_exception(self._reason(error))

    def _reason(self, error: BaseException) -> BaseException:
        """The exception of a cell, or `WorkerLost`, from an exception of Ray."""
        cause = getattr(error, "cause", None)
        if isinstance(error, self._ray.exceptions.RayTaskError) and isinstance(cause, Exception):
            return cause
        if isinstance(error, self._ray.exceptions.RayError):
            said = str(error).strip().partition("\n")[0]
            return WorkerLost(f"its worker or node was lost {RETRIES + 1} times ({said})")
        return error

    def _lead(self, ranks: RayRanks, outcome: Future[CellResult]) -> None:
        """Run a cell in several ranks, and pass on its result or error."""
        try:
            result = ranks.run()
        except Exception as error:
            if not self._stopping.is_set():
                outcome.set_exception(self._reason(error))
        else:
            outcome.set_result(result)
        finally:
            self._leading.discard(threading.current_thread())

    def _room_of(self, node: dict[str, float]) -> int:
        room = node.get("CPU", 0.0) / self._resources.cpus
        if self._resources.gpus:
            room = min(room, node.get("GPU", 0.0) / self._resources.gpus)
        return floor(room + 1e-6)

    def stop(self) -> None:
        """End the tasks at once; running cells are lost, recorded results stay."""
        self._stopping.set()
        for task in list(self._tasks.values()):
            with suppress(Exception):  # a task that has just ended cannot be cancelled
                self._ray.cancel(task, force=True)
        for thread in list(self._leading):
            thread.join(_SECONDS_BETWEEN_COUNTS)
        self._ray.shutdown()

    @classmethod
    @contextmanager
    def running(
        cls, store: Store, *, address: str | None, workers: int | None, resources: Resources
    ) -> Iterator[RayExecutor]:
        """An executor for the length of a block; its tasks end with the block."""
        executor = cls(store, address=address, workers=workers, resources=resources)
        try:
            yield executor
        finally:
            executor.stop()


def _run(cell: Cell, store: Store, resources: Resources, here: str) -> CellResult:
    """Run a cell in a worker process of Ray."""
    set_up_ray_worker(resources, here)
    return run_cell(cell, store, device=resources.device)


def _started(address: str | None, workers: int | None, resources: Resources) -> Any:
    """Start Ray here or connect to a cluster; return the module `ray`."""
    # Ray sends usage statistics unless told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray replaces Python's print unless told not to.
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise RayMissing(
            "--engine ray needs Ray: pip install -e '.[cluster]', or take --engine local"
        ) from error
    wanted: dict[str, Any] = {"address": address}
    if address is None:
        count = workers or resources.workers_here()
        wanted = {
            "address": "local",
            "num_cpus": ceil(count * resources.cpus),
            "num_gpus": ceil(count * resources.gpus),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    # Ray installs its own handler of SIGTERM, which is to end a run as Ctrl-C does.
    on_kill = signal.getsignal(signal.SIGTERM)
    try:
        _check_listening(address)
        ray.init(**wanted, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}): start one with `ray start --head`, "
            "or leave --address out to start Ray here"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_kill)
    return ray


def _check_listening(address: str | None) -> None:
    """Check that something listens at ``host:port``; Ray itself would try for many minutes.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        with socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER):
            pass
