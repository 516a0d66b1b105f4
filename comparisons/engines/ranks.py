"""Ranks on one machine: processes that train one network with DistributedDataParallel.

Every rank runs the same cell. Rank 0 alone tests, writes and records; the others only take part in
the training. If a rank is lost, all of them are ended and started again with a new rendezvous
store, in which no process of an earlier attempt can answer.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
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
_SECONDS_TO_END = 30.0


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
            with joined(0, cell.ranks, rendezvous, resources.device):
                return run_cell(cell, store, device=resources.device)
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
    try:
        with joined(rank, cell.ranks, rendezvous, resources.device):
            assist_cell(cell, store, device=resources.device)
    except Exception as error:
        if not is_broken_connection(error):
            (folder / f"rank-{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        raise


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
