"""How many images go through the network at once, so that a pass stays within a memory budget."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from evaluation.profiling.memory import peak_bytes

__all__ = [
    "MEMORY_BUDGET_CUDA_MIB",
    "MEMORY_BUDGET_MIB",
    "Passes",
    "Rows",
    "in_slices",
    "memory_budget_bytes",
    "rows_at_once",
    "set_memory_budget",
    "usual_memory_budget_mib",
    "within_budget",
]

# Of one worker, for the tensors of one pass.
MEMORY_BUDGET_MIB = 512
# The same on a GPU, which small batches leave idle: a gradient of ResNet-50 at 224 holds 76 MB an
# image, and 64 images come together.
MEMORY_BUDGET_CUDA_MIB = 8192
_MIB = 2**20
_budget = MEMORY_BUDGET_MIB * _MIB


class Rows(Protocol):
    """Saliency of some images, each by itself: `(R, C, H, W)` and `(R,)` to `(R, ...)`."""

    def __call__(self, inputs: Tensor, target: Tensor) -> Tensor:
        """The saliency of each row."""


def usual_memory_budget_mib(device: str) -> int:
    """What one pass may hold on a device, where nothing else is asked for.

    >>> usual_memory_budget_mib("cpu"), usual_memory_budget_mib("cuda")
    (512, 8192)
    """
    on_cpu = torch.device(device).type == "cpu"
    return MEMORY_BUDGET_MIB if on_cpu else MEMORY_BUDGET_CUDA_MIB


def set_memory_budget(mib: int) -> None:
    """Set what one pass may hold in this process, in MiB, as `torch.set_num_threads` does threads.

    It decides how many images share a pass, and nothing else: maps are the same to rounding.

    Raises:
        ValueError: less than 1 MiB.
    """
    global _budget
    if mib < 1:
        raise ValueError(f"a memory budget of {mib} MiB: expected at least 1")
    _budget = mib * _MIB


def memory_budget_bytes() -> int:
    """What one pass may hold in this process."""
    return _budget


def rows_at_once(explain: Rows, inputs: Tensor, target: Tensor, budget: int) -> int:
    """How many images a pass may take: what one holds is counted for one image and for two.

    Args:
        explain: what runs a pass.
        inputs: at least one image; its first is used.
        target: its class.
        budget: bytes of tensor storages that a pass may hold.

    Returns:
        At least 1, whatever the budget.

    >>> doubled = lambda inputs, target: inputs * 2
    >>> rows_at_once(doubled, torch.ones(1, 1, 5, 5), torch.zeros(1), 1000)
    10
    """

    def held(rows: int) -> int:
        return peak_bytes(
            partial(explain, inputs[:1].repeat(rows, 1, 1, 1), target[:1].repeat(rows))
        )

    one, two = held(1), held(2)
    each = max(1, two - one)
    return max(1, (budget - (one - each)) // each)


class Passes:
    """How many images a pass takes, counted once for each size of image and each budget."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def images(self, one: Rows, inputs: Tensor, target: Tensor) -> int:
        """At least 1, where each row of `one` takes a single image through the network."""
        key = (*inputs.shape[1:], inputs.dtype, inputs.device, _budget)
        if key not in self._known:
            # What is looked up at a first call does not count.
            one(inputs[:1], target[:1])
            self._known[key] = rows_at_once(one, inputs, target, _budget)
        return self._known[key]


def within_budget(explain: Rows) -> Rows:
    """Take as many rows at once as the memory budget allows, and put their maps together."""
    passes = Passes()

    def explain_slices(inputs: Tensor, target: Tensor) -> Tensor:
        return in_slices(explain, inputs, target, passes.images(explain, inputs, target))

    return explain_slices


def in_slices(explain: Rows, inputs: Tensor, target: Tensor, at_once: int) -> Tensor:
    """Explain so many rows at once at most, and put their maps together.

    As few slices as that allows, all of a length: a short one at the end costs nearly as much as a
    long one, and larger ones than needed cost memory that has to be fetched from the system.

    >>> in_slices(lambda rows, _: rows + len(rows), torch.zeros(5), torch.zeros(5), 4).tolist()
    [3.0, 3.0, 3.0, 2.0, 2.0]
    """
    slices_needed = -(-len(inputs) // at_once)
    length = -(-len(inputs) // max(1, slices_needed))
    slices = zip(torch.split(inputs, length), torch.split(target, length), strict=True)
    parts = [explain(*part) for part in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
