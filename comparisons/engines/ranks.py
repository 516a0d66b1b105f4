"""Ranks on one machine: processes that train one network with DistributedDataParallel.

Every rank runs the same cell. Rank 0 alone tests, writes and records; the others only take part in
the training. If a rank is lost, all of them are ended and started again with a new rendezvous
store, in which no process of an earlier attempt can answer.

A rank that is gone is noticed at once. While the ranks meet, rank 0 looks after the others. Later a
thread does, since a collective operation waits for a lost rank as long as for a slow one: the
broken connection ends it, or else rank 0 ends its own process, which the engine starts again.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import DistError, FileStore  # type: ignore[attr-defined]
from torch.distributed import Store as RendezvousStore  # type: ignore[attr-defined]

from comparisons.cells.cell import Cell
from comparisons.cells.run import assist_cell, run_cell
from comparisons.engines.resources import Resources
from comparisons.engines.worker import set_up_child
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["PATIENCE", "RankLost", "is_broken_connection", "joined", "run_in_ranks"]

# Time that a rank waits for another before it gives up: one may load images while others wait.
PATIENCE = timedelta(minutes=30)
# Time that rank 0 has to end by itself, once another rank is lost: a broken connection ends it.
_SECONDS_TO_END = 10.0
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_WORDS = 20.0


class RankLost(RuntimeError):
    """A rank was lost; the message says which."""


@contextmanager
def joined(rank: int, ranks: int, store: RendezvousStore, device: str) -> Iterator[None]:
    """Join a process group for the length of a block: NCCL for CUDA, Gloo for the CPU.

    Args:
        rank: of this process.
        ranks: number of processes.
        store: the rendezvous store, made for this attempt alone.
        device: device of the network.
    """
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


def run_in_ranks(
    cell: Cell, store: Store, resources: Resources, gpus: Sequence[str | None]
) -> CellResult:
    """Run a cell as rank 0, with the other ranks as processes of this machine.

    Args:
        cell: a cell of several ranks.
        store: holds its inputs and its result.
        resources: of each process.
        gpus: the GPUs that each of the other ranks sees.

    Raises:
        RankLost: another rank was killed.
    """
    finished = store.result(cell.id)
    if finished is not None:
        return finished
    try:
        return _run_as_first(cell, store, resources, gpus)
    except RankLost as lost:
        store.notes.add(f"{lost}: all ranks of {cell.kind} cell {cell.id} start again")
        raise


def _run_as_first(
    cell: Cell, store: Store, resources: Resources, gpus: Sequence[str | None]
) -> CellResult:
    with tempfile.TemporaryDirectory(prefix="fastsal-ranks-") as name:
        folder = Path(name)
        context = multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_take_part, args=(cell, store, resources, rank, seen, folder))
            for rank, seen in enumerate(gpus, 1)
        ]
        for other in others:
            other.start()
        try:
            rendezvous = FileStore(str(folder / "rendezvous"), cell.ranks)
            _await_others(others, folder, rendezvous, cell, store)
            with (
                _ended_with(others, folder, cell, store),
                joined(0, cell.ranks, rendezvous, resources.device),
            ):
                return run_cell(cell, store, device=resources.device)
        except RankLost:
            raise
        except Exception as error:
            _raise_reason(others, folder, error)
            raise
        finally:
            for other in others:
                other.terminate()
                other.join()


def _take_part(
    cell: Cell, store: Store, resources: Resources, rank: int, gpus: str | None, folder: Path
) -> None:
    """Run as another rank; write the reason to a file on failure."""
    set_up_child(resources.threads, resources.memory_budget_mib, gpus)
    rendezvous = FileStore(str(folder / "rendezvous"), cell.ranks)
    rendezvous.set(_here(rank), "")
    try:
        with joined(rank, cell.ranks, rendezvous, resources.device):
            assist_cell(cell, store, device=resources.device)
            _done(folder, rank).touch()
    except Exception as error:
        if not is_broken_connection(error):
            (folder / f"rank-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise


def _here(rank: int) -> str:
    """The entry of the rendezvous store that says that a rank has started."""
    return f"here-{rank}"


def _done(folder: Path, rank: int) -> Path:
    """The file that says that a rank has done its part, however its process ends."""
    return folder / f"done-{rank}"


def _await_others(
    others: Sequence[SpawnProcess],
    folder: Path,
    rendezvous: RendezvousStore,
    cell: Cell,
    store: Store,
) -> None:
    """Wait until every other rank has started; say so where it takes long.

    Raises:
        RankLost: one of them was killed, or has not started within `PATIENCE`.
        RuntimeError: one of them failed by itself.
    """
    began = time.monotonic()
    say_at = _SECONDS_BETWEEN_WORDS
    while True:
        absent = [rank for rank in range(1, len(others) + 1) if not rendezvous.check([_here(rank)])]
        if not absent:
            return
        for rank in absent:
            _check_alive(rank, others[rank - 1], folder)
        waited = time.monotonic() - began
        who = f"rank {', '.join(map(str, absent))} of {cell.kind} cell {cell.id}"
        if waited > PATIENCE.total_seconds():
            raise RankLost(f"{who} did not start within {PATIENCE.total_seconds() / 60:g} minutes")
        if waited > say_at:
            store.notes.add(
                f"Waiting for {who} to start, for {waited:.0f} s now and "
                f"{PATIENCE.total_seconds() / 60:g} minutes at most"
            )
            say_at += _SECONDS_BETWEEN_WORDS
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _check_alive(rank: int, process: SpawnProcess, folder: Path) -> None:
    """Refuse a rank whose process has ended.

    Raises:
        RankLost: it was killed.
        RuntimeError: it failed by itself.
    """
    if process.exitcode is None:
        return
    if process.exitcode < 0:
        raise RankLost(f"rank {rank} was killed by signal {-process.exitcode}")
    said = folder / f"rank-{rank}.txt"
    why = said.read_text() if said.exists() else f"it ended with status {process.exitcode}"
    raise RuntimeError(f"rank {rank} failed: {why}")


@contextmanager
def _ended_with(
    others: Sequence[SpawnProcess], folder: Path, cell: Cell, store: Store
) -> Iterator[None]:
    """End this process if another rank is lost during a block, and the block goes on."""
    done = threading.Event()

    def watch() -> None:
        left: dict[object, int] = {process.sentinel: rank for rank, process in enumerate(others, 1)}
        while left and not done.is_set():
            sentinels = [process.sentinel for process in others if process.sentinel in left]
            for sentinel in wait_for_end(sentinels, timeout=_SECONDS_BETWEEN_LOOKS):
                rank = left.pop(sentinel)
                process = others[rank - 1]
                process.join()
                if _done(folder, rank).exists() or done.wait(_SECONDS_TO_END):
                    continue
                store.notes.add(
                    f"rank {rank} of {cell.kind} cell {cell.id} is gone (status "
                    f"{process.exitcode}), and rank 0 still waited for it after "
                    f"{_SECONDS_TO_END:g} s: all ranks start again"
                )
                os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _raise_reason(others: Sequence[SpawnProcess], folder: Path, error: Exception) -> None:
    """Raise the reason of another rank, if rank 0 only saw a broken connection.

    Raises:
        RankLost: a rank was killed.
        RuntimeError: a rank failed by itself.
    """
    if not is_broken_connection(error):
        return
    for rank, other in enumerate(others, 1):
        other.join(_SECONDS_TO_END)
        if other.exitcode is not None and other.exitcode < 0:
            raise RankLost(f"rank {rank} was killed by signal {-other.exitcode}") from error
        said = folder / f"rank-{rank}.txt"
        if said.exists():
            raise RuntimeError(f"rank {rank} failed: {said.read_text()}") from error


def is_broken_connection(error: Exception) -> bool:
    """True if an error only says that another rank is gone, and not why."""
    # Gloo raises a plain RuntimeError, which names Gloo's source file.
    return isinstance(error, DistError) or "gloo" in str(error)
