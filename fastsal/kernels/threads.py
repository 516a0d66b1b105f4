"""Run a kernel on PyTorch's own intra-op thread pool."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
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
    """Run a kernel on a task, in this thread and in PyTorch's, and return when all have ended.

    Either way it is one call of a C function, during which Python runs no signal handler. So no
    exception can come before the last thread has let go of the task's memory.

    Args:
        kernel: A function of a task's address that releases the global interpreter lock.
        address: The kernel's address.
        task: The task's address.
        workers: The number of threads, as in the task's `workers`.
    """
    team = _team() if workers > 1 else None
    if team is None:
        # The first worker of a task claims every unit that no other does.
        kernel(task)
    else:
        # All of PyTorch's threads: OpenMP ends the threads that a smaller team leaves out.
        team(address, task, torch.get_num_threads(), 0)


@cache
def _team() -> Any:
    """Return OpenMP's function that runs another on the threads of PyTorch's own team, or None.

    Those threads are awake between a network's operations. To wake other threads takes longer than
    the statistic of a layer, and a Python function that waits for them can be interrupted.
    """
    if os.getpid() != _PROCESS:
        # A forked process has one thread alone, which OpenMP does not know: it would wait for ever.
        return None
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    function.restype = None
    return function


_PROCESS = os.getpid()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_team.cache_clear)
