"""How threads share a kernel's work: on the threads that PyTorch's own operations run on."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import torch

Kernel = Callable[[int], None]

# Elements read that a further thread must have to itself, to be worth its part of the work.
ELEMENTS_A_THREAD = 1 << 16


def workers_for(units: int, elements: int) -> int:
    """Return how many threads, of as many as PyTorch uses, work of some size is worth."""
    return max(1, min(torch.get_num_threads(), units, elements // ELEMENTS_A_THREAD))


def share(kernel: Kernel, address: int, task: int, workers: int) -> None:
    """Run a kernel on a task whose `workers` are set, in this thread and others.

    Args:
        kernel: Takes the task's address, and gives up the interpreter's lock.
        address: The kernel's own.
        task: The task's.
        workers: As the task has it.
    """
    if workers < 2:
        kernel(task)
        return
    team = _team()
    if team is not None:
        # All of PyTorch's threads, of which OpenMP would end those that a smaller team leaves out.
        team(address, task, torch.get_num_threads(), 0)
        return
    others = [_pool().submit(kernel, task) for _ in range(workers - 1)]
    try:
        kernel(task)
    finally:
        # What they read and write must not go before they are done.
        wait(others)


@cache
def _team() -> Any:
    """Return what runs a function on the threads of PyTorch's own OpenMP, or None.

    They are awake between a network's operations, where waking any other takes longer than reading
    a layer.
    """
    if os.getpid() != _PROCESS:
        # A forked process has no threads but the one that forked, which OpenMP does not know.
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
