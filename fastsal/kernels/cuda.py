"""SMOE Scale, the normal CDF and the weighted sum on a GPU, by launches of Triton's kernels.

Triton comes with PyTorch's builds for GPUs. Each function returns None, or False, where PyTorch's
operations have to be used instead: as in `cpu`, and where Triton cannot compile, without a C
compiler or for an old GPU.
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
from fastsal.kernels.memory import (
    Layout,
    contiguous_float32,
    has_statistic_kernel,
    layout_of,
    ordinary,
)

# Elements of a block of activations, which with their sums, mantissas and exponents fit registers.
ELEMENTS = 2048
# Locations of a block: if there are enough to keep the GPU busy, and if not.
MANY_LOCATIONS, FEW_LOCATIONS = 64, 16
# The number of blocks that keeps a large GPU busy.
ENOUGH_BLOCKS = 264
# Values of a map, and pixels of the result, in a program's block.
SQUASH_BLOCK, COMBINE_BLOCK = 4096, 512
SQUASH_WARPS = 16
# Larger maps are left to PyTorch's operations, which use several programs for one map.
LARGEST_MAP = 1 << 20
# The maps of each scale begin at a multiple of so many elements, for whole vectors.
ALIGNMENT = 16
# Smaller epsilons leave float32 numbers without a mantissa of 24 bits.
LEAST_EPSILON = 1e-30


@cache
def available(device: torch.device) -> bool:
    """Return True if Triton is installed and compiles for a device."""
    kernels = _kernels()
    if kernels is None:
        return False
    try:
        with on(device):
            target = torch.zeros(1, device=device, dtype=torch.float32)
            kernels.probe[(1,)](target)
            return bool(target.item() == 1)
    except Exception:
        # Triton's compiler and the C compiler that it calls raise any class of error.
        return False


@cache
def _kernels() -> Any:
    """Return the module of kernels, or None without Triton."""
    try:
        from fastsal.kernels import triton_kernels
    except (ImportError, OSError, RuntimeError):
        return None
    return triton_kernels


def readable(tensor: Tensor) -> bool:
    """Return True if there are kernels, and they may read this tensor's memory on a GPU."""
    return ordinary(tensor) and reachable(tensor) and available(tensor.device)


def reachable(tensor: Tensor) -> bool:
    """Return True if a tensor is on a device on which Triton's kernels run."""
    return tensor.is_cuda


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one: Triton launches on its stream."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def stream_on(device: torch.device) -> int:
    """Return the address of a device's current stream; 0 for a device without streams."""
    return torch._C._cuda_getCurrentRawStream(device.index) if device.type == "cuda" else 0


class StatisticLaunch:
    """One reusable launch: SMOE Scale of tensors with one layout.

    Args:
        layout: The layout of the activations, as `(N, C, H, W)`.
        start: The place of the first value in the memory of maps.
        epsilon: Added to each activation.

    Attributes:
        block: The number of locations for each program.
    """

    def __init__(self, layout: Layout, start: int = 0, epsilon: float = EPSILON) -> None:
        images, channels, height, width = layout.shape
        of_images, of_channels, _, of_columns = layout.stride
        locations = height * width
        channels_first = of_columns == 1 and of_channels != 1
        many = channels_first and images * (locations // MANY_LOCATIONS) >= ENOUGH_BLOCKS
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

    def run(self, source: Tensor, maps: Tensor) -> None:
        """Compute SMOE Scale of activations on the current device, into a memory of maps."""
        self._launch(source, maps, *self._arguments)


class CombineLaunch:
    """Reusable launches: the normal CDF and the weighted sum of maps that lie in one memory.

    Args:
        sizes: (h, w) of each scale's maps.
        weights: The weight of each scale.
        images: The number of images.
        size: (H, W) of the sum.
        device: The GPU.

    Attributes:
        starts: The place of each scale's first value in the memory.
        elements: The number of float32 numbers in the memory: the maps, then one flag for each map,
            set if the map has a value that is not finite.
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
        rows = [[start, *each] for start, each in zip(self.starts, sizes, strict=True)]
        self._table = torch.tensor(rows, device="cpu", dtype=torch.int64).to(device)
        self._factors = torch.tensor(
            [
                [weight, height / size[0], width / size[1]]
                for weight, (height, width) in zip(weights, sizes, strict=True)
            ],
            device="cpu",
            dtype=torch.float32,
        ).to(device)
        self._blocks = -(-size[0] * size[1] // COMBINE_BLOCK)

    def squash(self, maps: Tensor) -> None:
        """Replace each map by its normal CDF."""
        kernel = _kernels().squash[(self._maps,)]
        kernel(maps, self._table, self._images, self._flags, SQUASH_BLOCK, num_warps=SQUASH_WARPS)

    def combine(self, maps: Tensor, result: Tensor) -> None:
        """Write the sum to each channel of a contiguous result `(N, channels, H, W)`."""
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
        """Return the scales whose maps had values that are not finite, when they were squashed.

        This waits for the GPU.
        """
        flags = maps[self._flags : self.elements].tolist()
        return sorted({place // self._images for place, flag in enumerate(flags) if flag})


def smoe_scale(activations: Tensor, epsilon: float) -> Tensor | None:
    """Return SMOE Scale `(N, H, W)` of activations `(N, C, H, W)`, or None without a kernel."""
    if not readable(activations) or epsilon < LEAST_EPSILON:
        return None
    layout = layout_of(activations)
    if not has_statistic_kernel(layout):
        return None
    images, _, height, width = layout.shape
    values = activations.new_empty((images, height, width), dtype=torch.float32)
    with on(layout.device):
        _statistic(layout, epsilon).run(activations, values)
    return values


def gaussian(maps: Tensor) -> Tensor | None:
    """Return the normal CDF of maps `(N, H, W)`, or None without a kernel."""
    if not readable(maps) or not contiguous_float32(maps) or maps[0].numel() > LARGEST_MAP:
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
    """Write the weighted sum of maps `(N, h, w)`, upsampled, to each channel of `(N, C, H, W)`.

    Returns:
        False if there is no kernel for it, and nothing was written.
    """
    images, _, height, width = out.shape
    if (
        not readable(out)
        or not contiguous_float32(out)
        or not all(
            readable(one) and contiguous_float32(one) and one.device == out.device for one in maps
        )
    ):
        return False
    sizes = tuple((one.shape[1], one.shape[2]) for one in maps)
    launch = _combination(sizes, tuple(weights), images, (height, width), out.device)
    memory = out.new_empty(launch.elements)
    for start, one in zip(launch.starts, maps, strict=True):
        memory[start : start + one.numel()].view(one.shape).copy_(one)
    with on(out.device):
        launch.combine(memory, out)
    return True


@lru_cache(64)
def _statistic(layout: Layout, epsilon: float) -> StatisticLaunch:
    return StatisticLaunch(layout, epsilon=epsilon)


@lru_cache(64)
def _combination(*arguments: Any) -> CombineLaunch:
    return CombineLaunch(*arguments)
