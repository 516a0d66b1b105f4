"""Run a kernel on PyTorch's own intra-op thread pool."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

Kernel = Callable[[int], None]

# Elements to read for each thread, at least: fewer are not worth a thread's start.
ELEMENTS_A_THREAD = 1 << 16


def workers_for(units: int, elements: int) -> int:
    """Return the number of threads for a task of some size, at most as many as PyTorch uses.

    Args:
        units: The number of units of the task.
        elements: The number of elements that the task reads.
    """
    return max(1, min(torch.get_num_threads(), units, elements // ELEMENTS_A_THREAD))


def run_in_parallel(kernel: Kernel, address: int, task: int, workers: int) -> None:
    """Run a kernel on a task, in this thread and others.

    Args:
        kernel: A function of a task's address that releases the global interpreter lock.
        address: The kernel's address.
        task: The task's address.
        workers: The number of threads, as in the task's `workers`.
    """
    if workers < 2:
        kernel(task)
        return
    team = _team()
    if team is not None:
        # All of PyTorch's threads: OpenMP ends the threads that a smaller team leaves out.
        team(address, task, torch.get_num_threads(), 0)
        return
    others = [_pool().submit(kernel, task) for _ in range(workers - 1)]
    try:
        kernel(task)
    finally:
        # The memory that they use must outlive them.
        wait(others)


@cache
def _team() -> Any:
    """Return OpenMP's function that runs another on the threads of PyTorch's own team, or None.

    Those threads are awake between a network's operations. To wake other threads takes longer than
    the statistic of a layer.
    """
    if os.getpid() != _PROCESS:
        # A forked process has one thread alone, which OpenMP does not know.
        return None
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    function.restype = None
    return function


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "fastsal")


_PROCESS = os.getpid()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_team.cache_clear)
    os.register_at_fork(after_in_child=_pool.cache_clear)
