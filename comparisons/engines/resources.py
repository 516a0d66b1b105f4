"""Resources of a worker: device, threads, and its share of processors and GPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from comparisons.budget import MEMORY_BUDGET_MIB
from evaluation.hardware import processors

__all__ = ["Resources"]


@dataclass(frozen=True)
class Resources:
    """Resources of one process that runs cells; a training of several ranks takes them for each.

    Args:
        device: device of networks, ``cpu`` or ``cuda``.
        threads: of PyTorch's operations.
        memory_budget_mib: MiB that one pass of a saliency method may hold.
        cpus: processors reserved for the process.
        gpus: GPUs reserved for the process; less than 1 if several share one.

    >>> Resources(device="cuda", gpus=0.5).gpus
    0.5
    """

    device: str = "cpu"
    threads: int = 1
    memory_budget_mib: int = MEMORY_BUDGET_MIB
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: expected at least 1")
        if not self.cpus > 0:
            raise ValueError(f"{self.cpus:g} CPUs for a process: expected more than 0")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(
                f"{self.gpus:g} GPUs for a process: expected a share of one, or a whole number"
            )
        if self.gpus and self.on_cpu:
            raise ValueError(f"{self.gpus:g} GPUs for a process on the CPU: give --device cuda")

    @property
    def on_cpu(self) -> bool:
        """True if networks run on the CPU."""
        return torch.device(self.device).type == "cpu"

    def workers_here(self) -> int:
        """Number of such processes that this machine has room for, at least one."""
        room = processors() / self.cpus
        if self.gpus:
            room = min(room, len(_visible()) / self.gpus)
        return max(1, int(room))

    def visible_gpus(self, slot: int) -> str | None:
        """The GPU that the worker in a slot sees; None for all.

        Workers share GPUs if there are more of them than GPUs.
        """
        here = _visible()
        if self.on_cpu or not here or torch.device(self.device).index is not None:
            return None
        return here[int(slot * (self.gpus or 1.0)) % len(here)]


def _visible() -> list[str]:
    """GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip()]
    return [str(number) for number in range(torch.cuda.device_count())]
