"""Maps of images of one size, by constant matrices in place of operations for each scale.

A module that is exported for one image size knows the places of all locations. The locations of
all scales are then one row of values, whose means and standard deviations for each scale are
products with a constant matrix, as is the interpolation to the image's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastsal.arguments.inputs import grid_of
from fastsal.export.graph_forms import Reading, slope_of
from fastsal.maps.placing import matrices
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError


class OneSize(nn.Module):
    r"""The normal CDF and the combination of maps of R scales, for images of one size.

    $$S = \sum_r w_r R_r M_r C_r^T$$

    with `M_r` a scale's map, and `R_r` and `C_r` the matrices that interpolate between the rows and
    the columns of its locations. The products with $C_r$ are small; those with all $R_r$ are one. A
    constant is the left factor: as the right one it takes OpenVINO several times as long.

    Args:
        scales (sequence of Scale): The scales; R of them.
        size (tuple of int): (H, W) of the image; (D, H, W) of a volume, whose slices are
            interpolated after its rows and columns, and (1, T) of a signal.

    Attributes:
        size (tuple of int): (H, W) of the image.
        sizes (tuple of tuple of int): (h, w) of each scale.

    Example:
        >>> scale = Scale("0", nn.Identity(), 0, (1, 4, 1, 2), (1, 1), signed=False)
        >>> laid = OneSize([scale], (1, 4)).combined([torch.tensor([[[0.0, 1.0]]])], [1.0])
        >>> laid.tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """

    belongs: Tensor

    def __init__(self, scales: Sequence[Scale], size: tuple[int, ...]) -> None:
        super().__init__()
        self.training = False
        self.size = size
        self.sizes = tuple(_size_of(scale) for scale in scales)
        counts = [prod(own) for own in self.sizes]
        owner = torch.repeat_interleave(torch.tensor(counts, device="cpu", dtype=torch.long))
        # Of eight bits, since the file holds it; an engine converts it once, when it loads.
        belongs = owner == torch.arange(len(scales), device="cpu", dtype=torch.long)[:, None]
        self.register_buffer("belongs", belongs.to(torch.uint8), persistent=False)
        for index, (scale, own) in enumerate(zip(scales, self.sizes, strict=True)):
            *slices, rows, columns = _matrices(scale, own, size)
            self.register_buffer(f"rows_{index}", rows, persistent=False)
            self.register_buffer(f"columns_{index}", columns, persistent=False)
            for matrix in slices:
                self.register_buffer(f"slices_{index}", matrix, persistent=False)

    def fits(self, image: Tensor, readings: Sequence[Reading]) -> bool:
        """Return True if an exporter traces the module for this size of the image and the scales.

        Args:
            image: `(N, C, H, W)`.
            readings: What was read from the scales.
        """
        sizes = (grid_of(image), *(one.size for one in readings))
        # A size that the export leaves open is a symbol, and a comparison would make it constant.
        return (
            len(self.size) == 2
            and torch.compiler.is_exporting()
            and not torch.compiler.is_dynamo_compiling()
            and all(type(side) is int for size in sizes for side in size)
            and sizes == (self.size, *self.sizes)
        )

    def gaussian(self, values: Tensor) -> list[Tensor]:
        """Return the normal CDF of each scale's map, `(N, h, w)` each.

        Args:
            values: The maps of all scales one after the other, `(N, 1, P)`.
        """
        # Columns, since engines take long for a product with a few columns of thousands of rows.
        values = values.transpose(1, 2)
        belongs = self.belongs.float()
        locations = [[height * width] for height, width in self.sizes]
        counts = torch.tensor(locations, device=values.device, dtype=torch.float32)
        average = belongs / counts
        # One location has no deviation, and any divisor gives 0.
        variance = belongs / (counts - 1).clamp_min(1)
        # Divided by the mean magnitude: squares of very large or small values leave float32.
        magnitude = average @ values.abs()
        tiny = torch.finfo(torch.float32).tiny
        values = values * (belongs.T @ magnitude.clamp_min(tiny).reciprocal())
        centred = values - belongs.T @ (average @ values)
        deviation = (variance @ (centred * centred)).sqrt()
        scores = (centred * (belongs.T @ slope_of(deviation))).transpose(1, 2)
        squashed = torch.erf(scores) * 0.5 + 0.5
        maps, end = [], 0
        for height, width in self.sizes:
            end, begin = end + height * width, end
            maps.append(squashed[:, :, begin:end].reshape(-1, height, width))
        return maps

    def combined(self, maps: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Return the weighted sum `(N, H, W)` of the scales' maps `(N, h, w)`, on the image.

        Args:
            maps: R maps.
            shares: R weights, whose sum is 1.
        """
        pairs = [self._matrices(index) for index in range(len(maps))]
        wide = [
            (columns * share) @ one.transpose(1, 2)
            for one, (_, columns), share in zip(maps, pairs, shares, strict=True)
        ]
        rows = torch.cat([rows for rows, _ in pairs], 1)
        return rows @ torch.cat(wide, 2).transpose(1, 2)

    def laid(self, index: int, maps: Tensor) -> Tensor:
        """Return maps `(N, h, w)` of one scale as `(N, H, W)`, on the image."""
        rows, columns = self._matrices(index)
        laid = rows @ (maps @ columns.T)
        if len(self.size) == 2:
            return laid
        slices = self.get_buffer(f"slices_{index}").float()
        flat = slices @ laid.flatten(2)
        volumes: Tensor = flat.unflatten(2, self.size[1:])  # type: ignore[no-untyped-call]
        return volumes

    def _matrices(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the matrices of a scale, `(H, h)` and `(W, w)`, float32 in any module."""
        rows, columns = self.get_buffer(f"rows_{index}"), self.get_buffer(f"columns_{index}")
        return rows.float(), columns.float()


def check_places(scales: Sequence[Scale]) -> None:
    """Check that the maps of scales have fixed places, one on each image.

    Args:
        scales: The scales.

    Raises:
        LayerError: If a scale has others.
    """
    for scale in scales:
        if scale.varies:
            raise LayerError(
                f"layer {scale.name!r} lies in another place of each image, which the image "
                "itself decides; an exported module has fixed places. Export the network "
                "behind what moves the image"
            )
        if scale.placement is None:
            continue
        if scale.placement.views[0].points is not None:
            raise LayerError(
                f"layer {scale.name!r} is turned against the image, by no quarter turn, which "
                "an exported module cannot lay; give layers before, or the network behind it"
            )
        if len(scale.placement.views) > 1:
            raise LayerError(
                f"layer {scale.name!r} shows several places of an image in one map, or several "
                "maps of an image, which an exported module cannot lay; give layers before the "
                "views are made, or the network behind them"
            )


def _size_of(scale: Scale) -> tuple[int, ...]:
    """Return (h, w) of a scale's tensor, as it was traced."""
    shape = scale.channels_first(torch.empty(scale.shape, device="meta", dtype=torch.float32)).shape
    return tuple(shape[2:])


def _matrices(scale: Scale, own: Sequence[int], size: Sequence[int]) -> list[Tensor]:
    """Return the matrices that lay a scale's maps on the image, `(H, h)` and `(W, w)`, float32."""
    if scale.placement is not None:
        return [matrix.float() for matrix in matrices(scale.placement.views[0], size)]
    return [_interpolation(*of_axis) for of_axis in zip(own, size, strict=True)]


def _interpolation(locations: int, pixels: int) -> Tensor:
    """Return the linear interpolation between locations, `(pixels, locations)`."""
    units = torch.eye(locations, dtype=torch.float64, device="cpu")
    return F.interpolate(units[None], size=pixels, mode="linear")[0].T.float()
