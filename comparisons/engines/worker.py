"""Set-up of worker processes: threads, memory, warnings, signals and GPUs."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from multiprocessing.connection import wait as wait_for_end

import torch

from comparisons.budget import set_memory_budget

__all__ = ["set_up_child", "set_up_worker"]


def set_up_worker(threads: int, memory_budget_mib: int) -> None:
    """Set the threads and the memory budget of this process; silence Captum's repeated warnings.

    Args:
        threads: of PyTorch's operations.
        memory_budget_mib: MiB that one pass of a saliency method may hold.
    """
    torch.set_num_threads(threads)
    set_memory_budget(memory_budget_mib)
    _keep_freed_memory()
    # Captum and PyTorch repeat these at every call.
    for message in (
        "Input Tensor .* did not already require gradients",
        "Setting backward hooks on ReLU",
        "Setting forward, backward hooks",
        "Using a non-full backward hook",
    ):
        warnings.filterwarnings("ignore", message=message)


def set_up_child(threads: int, memory_budget_mib: int, gpus: str | None = None) -> None:
    """Set up a child process, which ends with its parent and leaves Ctrl-C to it.

    Args:
        threads: of PyTorch's operations.
        memory_budget_mib: MiB that one pass of a saliency method may hold.
        gpus: the only GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` takes them; None for all.
    """
    # Ctrl-C reaches the whole process group: the driver alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # read when CUDA is first used
    set_up_worker(threads, memory_budget_mib)


def _keep_freed_memory() -> None:
    """Let glibc reuse the pages of freed tensors instead of returning them at every step.

    Measured on ResNet-9 training, batch 64, one thread: 916 images a second of processor
    time instead of 640.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library than glibc
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)
