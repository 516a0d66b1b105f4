"""The saliency maps of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.images.batch import ImageBatch
from fastsal.images.pictures import Picture, picture, picture_of_scales
from fastsal.images.planes import Planes, stretched_rgb
from fastsal.maps.placing import placed
from fastsal.networks.scales import Scale


def stacked(scales: Sequence[Scale], per_scale: Sequence[Tensor], combined: Tensor) -> Tensor:
    """Return the maps of all scales `(N, R, H, W)`, each laid on the image.

    Args:
        scales: The scales.
        per_scale: For each scale its map `(N, h, w)`; `(N, d, h, w)` of volumes, `(N, t)` of
            signals.
        combined: `(N, H, W)`, of the image's size; `(N, D, H, W)`, or `(N, T)`.
    """
    size = tuple(combined.shape[1:])
    if len(size) == 1:
        rows = [one.unsqueeze(1) for one in per_scale]
        return stacked(scales, rows, combined.unsqueeze(1)).squeeze(2)
    laid = [
        placed(one, scale.placement, size) for scale, one in zip(scales, per_scale, strict=True)
    ]
    return torch.stack(laid, 1)


@dataclass(frozen=True, eq=False, repr=False)
class Maps:
    """The saliency maps of a batch, all from one forward pass.

    Attributes:
        scales: The layer of each map, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(N, h, w)`, at the layer's own size. If the
            network makes several views of an image, their maps follow each other. Of volumes
            `(N, d, h, w)`, of signals `(N, t)`.
        combined: `(N, H, W)`, their weighted average at the input's size; `(N, D, H, W)`, `(N, T)`.
        logits: The model's output, unchanged; None for an image that was read tile by tile.

    Example:
        >>> import torch
        >>> from fastsal import SMOEScale
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
        ... )
        >>> pixels = torch.rand(2, 3, 8, 8)
        >>> maps = SMOEScale(net).maps(pixels)
        >>> maps
        Maps(2 images of 8x8, 2 scales: '1' to '4', logits (2, 8, 4, 4))
        >>> maps.picture(pixels)
        Picture(20x8 pixels)
    """

    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    logits: Any

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(N, R, H, W)`, upsampled to the input's size and in place."""
        return stacked(self.scales, self.per_scale, self.combined)

    def __repr__(self) -> str:
        return described("Maps", self.combined, self.scales, output=self.logits)

    def picture(
        self,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
        axis: int = 0,
        index: int | None = None,
    ) -> Picture:
        """Draw the combined maps, over their images if they are given.

        Args:
            images: `(N, 3, H, W)` RGB in [0, 1], before the network's normalisation, or the batch
                of `fastsal.load_images`. None draws the maps alone.
            scales: True colours each location by the scales that find it salient, as `lovi` does:
                the first is violet, the last red.
            cmap: The name of a colour map, as for `fastsal.heatmap`; None takes inferno over images
                and magma alone. The colours of scales take none.
            alpha: Opacity of what is most salient, in [0, 1].
            axis: The axis of volumes that one plane each is drawn across: 0 for depth, 1 for
                height, 2 for width. A signal is drawn as a strip.
            index: The place of that plane on the axis; None takes the plane whose map has the
                largest mean.

        Returns:
            The `Picture`, which a notebook shows. A batch's images stand side by side. Volumes
            `(N, C, D, H, W)` and signals `(N, C, T)` below their maps are stretched to [0, 1], each
            by itself, in grey unless they have three channels.

        Raises:
            ValueError: If the images do not fit, or there is no such colour map.
        """
        planes = Planes(self.combined, axis, index)
        if planes.axes != 2 and isinstance(images, Tensor):
            images = stretched_rgb(planes.of(images))
        if scales:
            return picture_of_scales(planes.of(self.stacked), images, alpha=alpha)
        return picture(planes.of(self.combined), images, cmap=cmap, alpha=alpha)

    def show(
        self,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
        axis: int = 0,
        index: int | None = None,
    ) -> None:
        """Show the picture in the notebook, or else in the viewer of the desktop.

        Args:
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.
            axis: The axis of volumes that a plane is drawn across.
            index: The place of that plane.

        Raises:
            RuntimeError: If there is neither a notebook nor a viewer.
            ValueError: As for `picture`.
        """
        self.picture(images, scales=scales, cmap=cmap, alpha=alpha, axis=axis, index=index).show()

    def save(
        self,
        path: str | Path,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
        axis: int = 0,
        index: int | None = None,
    ) -> None:
        """Write the picture to a file, whole or not at all.

        Args:
            path: The file, such as "cat.png" or "cat.jpg".
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.
            axis: The axis of volumes that a plane is drawn across.
            index: The place of that plane.

        Raises:
            OSError: If the file cannot be written.
            ValueError: As for `picture`, or if the suffix is no picture's.
        """
        self.picture(images, scales=scales, cmap=cmap, alpha=alpha, axis=axis, index=index).save(
            path
        )

    def to_pil(
        self,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
        axis: int = 0,
        index: int | None = None,
    ) -> Any:
        """Return the picture as an image of Pillow.

        Args:
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.
            axis: The axis of volumes that a plane is drawn across.
            index: The place of that plane.

        Raises:
            ImportError: If Pillow is not installed.
            ValueError: As for `picture`.
        """
        return self.picture(
            images, scales=scales, cmap=cmap, alpha=alpha, axis=axis, index=index
        ).to_pil()


def described(name: str, combined: Tensor, scales: Sequence[Scale], output: Any = None) -> str:
    """Return maps in one line: their number, their size, their scales and the output's shape.

    >>> described("Maps", torch.zeros(2, 500), ())
    'Maps(2 signals of 500, 0 scales)'

    >>> described("Maps", torch.zeros(2, 8, 6), ())
    'Maps(2 images of 8x6, 0 scales)'
    """
    count, *size = combined.shape
    kind = {1: "signal", 2: "image", 3: "volume"}[len(size)]
    images, counted = kind if count == 1 else f"{kind}s", f"{len(scales)} scales"
    if len(scales) == 1:
        counted = f"1 scale: {scales[0].name!r}"
    elif scales:
        counted += f": {scales[0].name!r} to {scales[-1].name!r}"
    shape = f", logits {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    return f"{name}({count} {images} of {'x'.join(map(str, size))}, {counted}{shape})"
