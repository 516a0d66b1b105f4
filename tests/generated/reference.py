"""What a map should be, by hand: the network run part by part, the formulas in float64."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtr
from torch import Tensor

from tests.generated.blocks import Act
from tests.generated.grid import Grid
from tests.generated.networks import Case, Decode, Denoise, Views
from tests.generated.tokens import ChannelsLast, Decide, Tokens

# A map whose spread is below this share of its largest value is 0.5 everywhere.
CONSTANT = 1e-6


@dataclass(frozen=True)
class Last:
    """The last tensor of a scale: `(views * N, h, w, C)` in float64, with its grids.

    `number` is that of its layer; `plain` if it is `(N, C, h, w)`; `share` the share of the scale's
    parameters in the layer (of a stage of tokens, in its last block), 1 for an activation function.
    """

    values: np.ndarray
    grids: tuple[Grid, ...]
    number: int
    plain: bool
    share: float

    @property
    def clear(self) -> bool:
        """False for a sum with negative values that adds little to an activation before it.

        Then either may count as the scale's last tensor.
        """
        return self.share > 0.4 or bool((self.values >= 0).all())

    def map(self, statistic: str) -> np.ndarray:
        """The normalised maps, rows of the image as rows; an image's views follow each other."""
        values = np.maximum(self.values, 0)
        if self.grids[0].transposed:
            values = values.transpose(0, 2, 1, 3)
        maps = np.stack([normal_cdf(one) for one in statistics(values, statistic)])
        views = len(self.grids)
        of_image = maps.reshape(views, -1, *maps.shape[1:]).swapaxes(0, 1)
        return of_image.reshape(maps.shape)

    @property
    def steps(self) -> tuple[float, float]:
        return self.grids[0].steps


def statistics(values: np.ndarray, name: str) -> np.ndarray:
    """SMOE Scale (1/C sum mu log2(mu / T)) or the mean of the last dimension."""
    if name == "mean":
        return values.mean(-1)
    values = values + 1e-6
    mean = values.mean(-1, keepdims=True)
    return (mean * np.log2(mean / values)).mean(-1)


def normal_cdf(values: np.ndarray) -> np.ndarray:
    if values.size < 2 or values.std(ddof=1) <= CONSTANT * np.abs(values).max():
        return np.full_like(values, 0.5)
    return ndtr((values - values.mean()) / values.std(ddof=1))


# The share of the weights that lie at the coarsest scale of a network with a decoder.
LEAST_BELOW = 0.25


@dataclass(frozen=True)
class Walk:
    """A network's pass by hand: the last tensor of each scale, what it sees, and its output."""

    lasts: tuple[Last, ...]
    # Of each view, the rows and the columns.
    seen: tuple[list[tuple[float, float]], ...]
    # Between rows or columns that it reads it may leave some out.
    gaps: bool
    # With fewer weights below a decoder its way down is as a gate.
    deep: bool


class _Walker:
    """The tensor, its layout and its grids on the way through the parts."""

    def __init__(self, case: Case, images: Tensor):
        self.x = images.clone()
        self.size = case.size
        self.grids: tuple[Grid, ...] = (Grid.of_image(*case.size),)
        # First token with a place, or None for (N, C, H, W); the rows and columns of tokens.
        self.layout: str | tuple[int, int, int] = "first"

    def values(self) -> np.ndarray:
        x = self.x.detach().double()
        if self.layout == "first":
            x = x.permute(0, 2, 3, 1)
        elif self.layout != "last":
            first, height, width = self.layout
            x = x[:, first:].reshape(len(x), height, width, -1)
        return x.numpy().copy()

    def step(self, part, layer) -> None:
        if isinstance(part, Views):
            flipped = [Grid(grid.rows, grid.columns.flipped()) for grid in self.grids]
            self.grids = (*self.grids, *flipped)
        rows, columns = self.shape
        self.x = layer(self.x)
        if isinstance(part, Tokens) and not part.back:
            self.layout = (int(part.extra), rows, columns)
        if isinstance(part, ChannelsLast):
            self.layout = "first" if part.back else "last"
        self.grids = tuple(part.grid(grid, self.shape) for grid in self.grids)

    @property
    def shape(self) -> tuple[int, int]:
        if self.layout == "first":
            return tuple(self.x.shape[2:])
        return tuple(self.x.shape[1:3]) if self.layout == "last" else self.layout[1:]


def walk(case: Case, images: Tensor) -> Walk:
    """Run a network by hand and keep the last tensor before each downsampling, and of the end.

    A downsampling makes steps along an axis at least half as long again. The tensor is the last
    that a nonlinear function, a sum or a product made at its resolution, after weights; what comes
    before all weights is no scale, nor is the output, nor what a decoder makes, nor the scales of a
    network whose result is another network's image.
    """
    _, layers = case.network()
    memo: dict[int, object] = {}
    layers = [deepcopy(layer, memo) for layer in layers]
    for layer in layers:
        if isinstance(layer, torch.nn.Module):
            layer.eval()
    walker = _Walker(case, images)
    lasts: list[Last] = []
    last: Last | None = None
    seen, gaps, weights, every = (), False, 0, 0
    body = [part for part in case.parts if not isinstance(part, Decode | Decide)]
    with torch.no_grad():
        for number, (part, layer) in enumerate(zip(body, layers[:-1], strict=True)):
            before = walker.grids[0]
            if part.weighted and not seen:
                seen = tuple(grid.extents(case.size) for grid in walker.grids)
                gaps = max(before.steps) > 1.5
            walker.step(part, layer)
            down = max(
                new / old for new, old in zip(walker.grids[0].steps, before.steps, strict=True)
            )
            if down > 1.5 and last is not None:
                lasts.append(last)
                last, weights = None, 0
            if isinstance(part, Denoise):
                lasts, last, weights = [], None, 0
            weights += _parameters(layer)
            every += _parameters(layer)
            if part.ends:
                plain = walker.layout == "first" and len(walker.grids) == 1
                own = layer.blocks[-1] if hasattr(layer, "blocks") else layer
                share = 1.0 if isinstance(part, Act) else _parameters(own) / max(weights, 1)
                last = Last(walker.values(), walker.grids, number, plain, share)
    if last is not None:
        lasts.append(last)
    decodes = any(isinstance(part, Decode) for part in case.parts)
    return Walk(tuple(lasts), seen, gaps, not decodes or weights > LEAST_BELOW * every)


def _parameters(layer: object) -> int:
    if not isinstance(layer, torch.nn.Module):
        return 0
    return sum(parameter.numel() for parameter in layer.parameters())


def centres(case: Case) -> list[tuple[float, float]]:
    """Where the images have their objects: within what every scale covers."""
    zeros = torch.full((1, case.channels, *case.size), 0.05, dtype=getattr(torch, case.dtype))
    found = walk(case, zeros)
    boxes = [grid.extents(case.size) for last in found.lasts for grid in last.grids]
    low, high = (
        [edge(box[axis][side] for box in [*found.seen, *boxes]) for axis in (0, 1)]
        for side, edge in ((0, max), (1, min))
    )
    shares = [case.place, (1 - case.place[0], 1 - case.place[1]), (case.place[1], case.place[0])]
    return [
        tuple(
            first + share * (end - first) for first, end, share in zip(low, high, one, strict=True)
        )
        for one in shares[: case.images]
    ]


def top(values: np.ndarray) -> tuple[float, float]:
    """The centre of the highest values of a map, in fractional indices."""
    least = values.max() - 0.02 * (values.max() - values.min())
    rows, columns = np.nonzero(values >= least)
    weights = values[rows, columns] - least + 1e-12
    return float(np.average(rows, weights=weights)), float(np.average(columns, weights=weights))


def place_of(last: Last, values: np.ndarray, view: int, zoom: int) -> tuple[float, float]:
    """The pixel place of the highest values of one map of a scale, interpolated `zoom` times.

    Between locations a peak is lower than at one, but for the map's edges.
    """
    grid = last.grids[view].upright()
    finer = F.interpolate(torch.tensor(values)[None, None], scale_factor=zoom, mode="bilinear")
    row, column = ((index + 0.5) / zoom - 0.5 for index in top(finer[0, 0].numpy()))
    return (
        float(grid.rows.sampled(np.array([row]), 1).at[0]),
        float(grid.columns.sampled(np.array([column]), 1).at[0]),
    )
