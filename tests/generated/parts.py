"""The parts that move or resample a grid: convolutions, pooling, crops, pads, mirrors, sizes.

A part is data that prints as the code that makes it. `build` gives its layer and the number of
channels after it; `grid` moves the coordinates by hand. All weights are positive, so that a bright
object stays the brightest place; channels differ in their gain, so that a statistic over channels
is highest there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.generated.grid import Grid

Layer = Callable[[Tensor], Tensor]


def positive(module: nn.Module, random: torch.Generator, bias: float = 0.01) -> nn.Module:
    """Give a convolution or a linear layer averaging weights, and biases of zero or less."""
    weight = module.weight.data
    if isinstance(module, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    drawn = torch.rand(weight.shape, generator=random) + 0.5
    count = weight.shape[0]
    gains = torch.linspace(0.4, 1.6, count) if count > 1 else torch.ones(1)
    gains = gains[torch.randperm(count, generator=random)]
    share = drawn.flatten(1).sum(1)
    if isinstance(module, nn.ConvTranspose2d):
        share = share / (module.stride[0] * module.stride[1])
    weight.copy_(drawn * (gains / share).reshape(-1, *[1] * (weight.dim() - 1)))
    if module.bias is not None:
        module.bias.data.copy_(-bias * torch.rand(count, generator=random))
    return module


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Layer, label: str = ""):
        super().__init__()
        self.function = function
        self.label = label

    def forward(self, x):
        return self.function(x)

    def extra_repr(self):
        return self.label


@dataclass(frozen=True)
class Part:
    """What a network is made of."""

    # True for parts with weights; True for those whose result may end a scale.
    weighted: ClassVar[bool] = False
    ends: ClassVar[bool] = False

    def build(self, channels: int, random: torch.Generator) -> tuple[Layer, int]:
        raise NotImplementedError

    def grid(self, grid: Grid, size: tuple[int, int]) -> Grid:
        """The grid after the part, of `size` rows and columns."""
        return grid


@dataclass(frozen=True)
class Conv(Part):
    out: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | str = (1, 1)
    dilation: int = 1
    groups: int | str = 1
    mode: str = "zeros"
    bias: bool = True
    weighted = True

    def build(self, channels, random):
        depthwise = self.groups == "depthwise"
        groups = channels if depthwise else self.groups
        out = channels if depthwise else self.out
        conv = nn.Conv2d(
            channels,
            out,
            self.kernel,
            self.stride,
            self._pad() if isinstance(self._pad(), str) else tuple(self._pad()),
            self.dilation,
            groups,
            self.bias,
            self.mode,
        )
        return positive(conv, random), out

    def _pad(self):
        if self.padding == "full":
            return [self.dilation * (kernel - 1) for kernel in self.kernel]
        return self.padding

    def grid(self, grid, size):
        pad = self._pad()
        if pad == "valid":
            pad = (0, 0)
        elif pad == "same":
            pad = [self.dilation * (kernel - 1) // 2 for kernel in self.kernel]
        rows, columns = (
            axis.windows(count, kernel, stride, before, self.dilation)
            for axis, count, kernel, stride, before in zip(
                (grid.rows, grid.columns), size, self.kernel, self.stride, pad, strict=True
            )
        )
        return Grid(rows, columns)


@dataclass(frozen=True)
class Pool(Part):
    kind: str = "max"
    kernel: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (0, 0)
    ceil: bool = False

    def build(self, channels, random):
        kinds = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
        pool = kinds[self.kind](self.kernel, self.stride, self.padding, ceil_mode=self.ceil)
        return pool, channels

    def grid(self, grid, size):
        rows, columns = (
            axis.windows(count, kernel, stride, before)
            for axis, count, kernel, stride, before in zip(
                (grid.rows, grid.columns), size, self.kernel, self.stride, self.padding, strict=True
            )
        )
        return Grid(rows, columns)


class BlurPool(nn.Module):
    """A fixed filter with stride 2, as of anti-aliased networks."""

    def __init__(self, channels):
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", (line[:, None] * line).repeat(channels, 1, 1, 1))

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(x, self.filter, stride=2, groups=x.shape[1])


@dataclass(frozen=True)
class Blur(Part):
    def build(self, channels, random):
        return BlurPool(channels), channels

    def grid(self, grid, size):
        return Grid(
            grid.rows.windows(size[0], 3, 2, 1),
            grid.columns.windows(size[1], 3, 2, 1),
        )


@dataclass(frozen=True)
class Subsample(Part):
    down: int = 2
    across: int = 2

    def build(self, channels, random):
        return Function(lambda x: x[:, :, :: self.down, :: self.across], repr(self)), channels

    def grid(self, grid, size):
        rows, columns = slice(None, None, self.down), slice(None, None, self.across)
        return Grid(grid.rows.cut(rows), grid.columns.cut(columns))


@dataclass(frozen=True)
class Unshuffle(Part):
    """Blocks of 2 x 2 locations become channels; for even sizes."""

    def build(self, channels, random):
        return Function(lambda x: F.pixel_unshuffle(x, 2), repr(self)), 4 * channels

    def grid(self, grid, size):
        return Grid(grid.rows.windows(size[0], 2, 2, 0), grid.columns.windows(size[1], 2, 2, 0))


@dataclass(frozen=True)
class Pad(Part):
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    mode: str = "constant"

    def build(self, channels, random):
        sides = (self.left, self.right, self.top, self.bottom)
        return Function(lambda x: F.pad(x, sides, mode=self.mode), repr(self)), channels

    def grid(self, grid, size):
        return Grid(
            grid.rows.padded(self.top, self.bottom), grid.columns.padded(self.left, self.right)
        )


@dataclass(frozen=True)
class Crop(Part):
    """Cuts off pixels by a slice, by `narrow`, or the same on both sides by indices of a tensor."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0
    how: str = "slice"

    def build(self, channels, random):
        def crop(x):
            height, width = x.shape[2:]
            last, end = height - self.bottom, width - self.right
            if self.how == "slice":
                return x[:, :, self.top : last, self.left : end]
            if self.how == "narrow":
                x = x.narrow(2, self.top, last - self.top)
                return x.narrow(3, self.left, end - self.left)
            if self.how == "pad":
                return F.pad(x, (-self.left, -self.right, -self.top, -self.bottom))
            x = x.index_select(2, torch.arange(self.top, last))
            return x.index_select(3, torch.arange(self.left, end))

        return Function(crop, repr(self)), channels

    def grid(self, grid, size):
        rows = slice(self.top, self.top + size[0])
        columns = slice(self.left, self.left + size[1])
        return Grid(grid.rows.cut(rows), grid.columns.cut(columns))


@dataclass(frozen=True)
class Flip(Part):
    rows: bool = False
    columns: bool = True

    def build(self, channels, random):
        dimensions = [2] * self.rows + [3] * self.columns
        return Function(lambda x: x.flip(dimensions), repr(self)), channels

    def grid(self, grid, size):
        return Grid(
            grid.rows.flipped() if self.rows else grid.rows,
            grid.columns.flipped() if self.columns else grid.columns,
        )


@dataclass(frozen=True)
class Transpose(Part):
    how: str = "transpose"

    def build(self, channels, random):
        if self.how == "transpose":
            return Function(lambda x: x.transpose(2, 3), repr(self)), channels
        return Function(lambda x: x.permute(0, 1, 3, 2).contiguous(), repr(self)), channels

    def grid(self, grid, size):
        return grid.swapped()


@dataclass(frozen=True)
class Rotate(Part):
    """Quarter turns against the clock."""

    turns: int = 1

    def build(self, channels, random):
        return Function(lambda x: torch.rot90(x, self.turns, (2, 3)), repr(self)), channels

    def grid(self, grid, size):
        for _ in range(self.turns % 4):
            # The last column becomes the first row.
            grid = Grid(grid.columns.flipped(), grid.rows)
        return grid


@dataclass(frozen=True)
class Resize(Part):
    """To a size, or by a factor."""

    to: tuple[int, int] | float
    mode: str = "bilinear"

    def build(self, channels, random):
        options = {"align_corners": False} if self.mode == "bilinear" else {}
        if isinstance(self.to, tuple):
            options["size"] = self.to
        else:
            options["scale_factor"] = self.to
        return Function(lambda x: F.interpolate(x, mode=self.mode, **options), repr(self)), channels

    def grid(self, grid, size):
        return Grid(grid.rows.resized(size[0]), grid.columns.resized(size[1]))
