"""When Triton's kernels stand in for the plain forms on a GPU, and how they are launched.

Triton comes with PyTorch's builds for GPUs. Each function returns None, or False, where the plain
PyTorch form has to be taken, as in `fused`, and where Triton cannot compile: without a C compiler,
or for an old GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.kernels.memory import Layout, fits_statistic, layout_of, ordinary, plain_maps

# Elements of a block of activations, in registers with their sums, mantissas and exponents.
ELEMENTS = 2048
# Locations of a block, where there are enough to keep the GPU busy, and where not.
MANY_LOCATIONS, FEW_LOCATIONS = 64, 16
# Blocks that keep a large GPU busy.
ENOUGH_BLOCKS = 264
# Values of a map, and pixels of the result, that a program takes at a time.
SQUASH_BLOCK, COMBINE_BLOCK = 4096, 512
SQUASH_WARPS = 16
# A map of more locations is left to PyTorch's operations, which share it out among programs.
LARGEST_MAP = 1 << 20
# Each scale's maps begin at a multiple of so many elements, for whole vectors.
ALIGNMENT = 16
# Below it, float32 numbers have no mantissa of 24 bits.
LEAST_EPSILON = 1e-30


@cache
def available(device: torch.device) -> bool:
    """Return whether Triton is installed and compiles for a device."""
    kernels = _kernels()
    if kernels is None:
        return False
    try:
        with on(device):
            target = torch.zeros(1, device=device)
            kernels.probe[(1,)](target)
            return bool(target.item() == 1)
    except Exception:
        # Whatever its compiler, or the C compiler it calls, may raise.
        return False


@cache
def _kernels() -> Any:
    """Return the kernels' module, or None without Triton."""
    try:
        from fastsal.kernels import triton_kernels
    except (ImportError, OSError, RuntimeError):
        return None
    return triton_kernels


def readable(tensor: Tensor) -> bool:
    """Return whether kernels are there and may read a tensor on a GPU unseen by PyTorch."""
    return ordinary(tensor) and reachable(tensor) and available(tensor.device)


def reachable(tensor: Tensor) -> bool:
    """Return whether a tensor lies where Triton's kernels run."""
    return tensor.is_cuda


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, on whose stream Triton launches."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


class StatisticLaunch:
    """SMOE Scale of tensors that lie alike, written to a memory of maps from `start` on.

    Attributes:
        block: How many locations a program of the GPU's takes.
    """

    def __init__(self, layout: Layout, start: int = 0, epsilon: float = EPSILON) -> None:
        images, channels, height, width = layout.shape
        of_images, of_channels, _, of_columns = layout.stride
        locations = height * width
        planes = of_columns == 1 and of_channels != 1
        many = planes and images * (locations // MANY_LOCATIONS) >= ENOUGH_BLOCKS
        self.block = MANY_LOCATIONS if many else FEW_LOCATIONS
        rows = min(ELEMENTS // self.block, 1 << (channels - 1).bit_length())
        blocks = -(-locations // self.block)
        self._launch = _kernels().statistic[(images * blocks,)]
        self._arguments = (
            start,
            of_images,
            of_channels,
            of_columns,
            rows * of_channels,
            channels,
            locations,
            blocks,
            epsilon,
            1 / channels,
            rows,
            self.block,
        )

    def do(self, source: Tensor, maps: Tensor) -> None:
        """Read activations on the current device."""
        self._launch(source, maps, *self._arguments)


class CombineLaunch:
    """The weighted sum of maps of given sizes, that lie in one memory.

    Attributes:
        starts: Where each scale's maps begin.
        elements: How many float32 numbers the memory has: the maps, and one for each whether it has
            a value that is not finite.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        weights: Sequence[float],
        images: int,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._images, self._size = images, size
        lengths = [-(-images * rows * columns // ALIGNMENT) * ALIGNMENT for rows, columns in sizes]
        *self.starts, self._flags = accumulate(lengths, initial=0)
        self._maps = images * len(sizes)
        self.elements = self._flags + self._maps
        rows = [[start, *of] for start, of in zip(self.starts, sizes, strict=True)]
        self._table = torch.tensor(rows, dtype=torch.int64).to(device)
        self._factors = torch.tensor(
            [
                [weight, height / size[0], width / size[1]]
                for weight, (height, width) in zip(weights, sizes, strict=True)
            ],
            dtype=torch.float32,
        ).to(device)
        self._blocks = -(-size[0] * size[1] // COMBINE_BLOCK)

    def squash(self, maps: Tensor) -> None:
        """Put the normal CDF of every map in its place."""
        kernel = _kernels().squash[(self._maps,)]
        kernel(maps, self._table, self._images, self._flags, SQUASH_BLOCK, num_warps=SQUASH_WARPS)

    def combine(self, maps: Tensor, result: Tensor) -> None:
        """Write the sum to a contiguous result `(N, channels, H, W)`, to all its channels alike."""
        height, width = self._size
        _kernels().combine[(self._images * self._blocks,)](
            maps,
            self._table,
            self._factors,
            result,
            len(self.starts),
            result.shape[1],
            width,
            height * width,
            self._blocks,
            COMBINE_BLOCK,
        )

    def not_finite(self, maps: Tensor) -> list[int]:
        """Return which scales had values that are not finite, as found where they were squashed.

        It waits for the GPU.
        """
        flags = maps[self._flags : self.elements].tolist()
        return sorted({place // self._images for place, flag in enumerate(flags) if flag})


def smoe_scale(activations: Tensor, epsilon: float) -> Tensor | None:
    """Return SMOE Scale `(N, H, W)` of activations `(N, C, H, W)`, or None."""
    if not readable(activations) or epsilon < LEAST_EPSILON:
        return None
    layout = layout_of(activations)
    if not fits_statistic(layout):
        return None
    images, _, height, width = layout.shape
    values = activations.new_empty((images, height, width), dtype=torch.float32)
    with on(layout.device):
        _statistic(layout, epsilon).do(activations, values)
    return values


def gaussian(maps: Tensor) -> Tensor | None:
    """Return maps `(N, H, W)` through the normal CDF, or None."""
    if not readable(maps) or not plain_maps(maps) or maps[0].numel() > LARGEST_MAP:
        return None
    images, height, width = maps.shape
    launch = _combination(((height, width),), (1.0,), images, (height, width), maps.device)
    memory = maps.new_empty(launch.elements)
    squashed = memory[: maps.numel()].view(maps.shape)
    squashed.copy_(maps)
    with on(maps.device):
        launch.squash(memory)
    return squashed


def combine(maps: Sequence[Tensor], weights: Sequence[float], out: Tensor) -> bool:
    """Write the weighted sum of maps `(N, h, w)`, upsampled, to all channels of `(N, C, H, W)`.

    Returns:
        Whether it was done.
    """
    images, _, height, width = out.shape
    if (
        not readable(out)
        or not plain_maps(out)
        or not all(
            readable(given) and plain_maps(given) and given.device == out.device for given in maps
        )
    ):
        return False
    sizes = tuple((given.shape[1], given.shape[2]) for given in maps)
    launch = _combination(sizes, tuple(weights), images, (height, width), out.device)
    memory = out.new_empty(launch.elements)
    for start, given in zip(launch.starts, maps, strict=True):
        memory[start : start + given.numel()].view(given.shape).copy_(given)
    with on(out.device):
        launch.combine(memory, out)
    return True


@lru_cache(64)
def _statistic(layout: Layout, epsilon: float) -> StatisticLaunch:
    return StatisticLaunch(layout, epsilon=epsilon)


@lru_cache(64)
def _combination(*given: Any) -> CombineLaunch:
    return CombineLaunch(*given)
