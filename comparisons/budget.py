"""Memory budget of one pass: split images so that a pass stays within it, and join the maps."""

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
    """A method that explains each image by itself: `(R, C, H, W)` and `(R,)` to `(R, ...)`."""

    def __call__(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Return the saliency of each row."""


def usual_memory_budget_mib(device: str) -> int:
    """Return the default memory budget of one pass on a device, in MiB.

    >>> usual_memory_budget_mib("cpu"), usual_memory_budget_mib("cuda")
    (512, 8192)
    """
    on_cpu = torch.device(device).type == "cpu"
    return MEMORY_BUDGET_MIB if on_cpu else MEMORY_BUDGET_CUDA_MIB


def set_memory_budget(mib: int) -> None:
    """Set the memory budget of one pass in this process, in MiB.

    The budget decides how many images share a pass; maps are the same to rounding.

    Raises:
        ValueError: less than 1 MiB.
    """
    global _budget
    if mib < 1:
        raise ValueError(f"a memory budget of {mib} MiB: expected at least 1")
    _budget = mib * _MIB


def memory_budget_bytes() -> int:
    """Return the memory budget of one pass in this process, in bytes."""
    return _budget


def rows_at_once(explain: Rows, inputs: Tensor, target: Tensor, budget: int) -> int:
    """Return how many images a pass may take, from the peak memory of one image and of two.

    Each is the peak of a second call: a first one may look up scales, which no later one does.

    Args:
        explain: runs a pass.
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
        several = inputs[:1].repeat(rows, *[1] * (inputs.dim() - 1))
        one_pass = partial(explain, several, target[:1].repeat(rows))
        one_pass()
        return peak_bytes(one_pass)

    one, two = held(1), held(2)
    each = max(1, two - one)
    return max(1, (budget - (one - each)) // each)


class Passes:
    """The number of images in a pass, counted once for each image size and each budget."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], int] = {}

    def images(self, one: Rows, inputs: Tensor, target: Tensor) -> int:
        """Return how many images a pass of `one` may take, at least 1.

        Each row of `one` takes a single image through the network.
        """
        key = (*inputs.shape[1:], inputs.dtype, inputs.device, _budget)
        if key not in self._known:
            self._known[key] = rows_at_once(one, inputs, target, _budget)
        return self._known[key]


def within_budget(explain: Rows) -> Rows:
    """Wrap a method so that it takes as many rows at once as the memory budget allows."""
    passes = Passes()

    def explain_slices(inputs: Tensor, target: Tensor) -> Tensor:
        return in_slices(explain, inputs, target, passes.images(explain, inputs, target))

    return explain_slices


def in_slices(explain: Rows, inputs: Tensor, target: Tensor, at_once: int) -> Tensor:
    """Explain at most `at_once` rows at a time, and join the maps.

    The slices are as few as possible and of equal length: a short one at the end costs nearly as
    much as a long one, and larger ones than needed cost memory.

    >>> in_slices(lambda rows, _: rows + len(rows), torch.zeros(5), torch.zeros(5), 4).tolist()
    [3.0, 3.0, 3.0, 2.0, 2.0]
    """
    slices_needed = -(-len(inputs) // at_once)
    length = -(-len(inputs) // max(1, slices_needed))
    slices = zip(torch.split(inputs, length), torch.split(target, length), strict=True)
    parts = [explain(*part) for part in slices]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
