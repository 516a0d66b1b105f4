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
from fastsal.maps.placing import placed
from fastsal.networks.scales import Scale


def stacked(scales: Sequence[Scale], per_scale: Sequence[Tensor], combined: Tensor) -> Tensor:
    """Return the maps of all scales `(N, R, H, W)`, each laid on the image.

    Args:
        scales: The scales.
        per_scale: For each scale its map `(N, h, w)`.
        combined: `(N, H, W)`, of the image's size.
    """
    size = combined.shape[1], combined.shape[2]
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
            network makes several views of an image, their maps follow each other.
        combined: `(N, H, W)`, their weighted average at the input's size.
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

        Returns:
            The `Picture`, which a notebook shows. A batch's images stand side by side.

        Raises:
            ValueError: If the images do not fit, or there is no such colour map.
        """
        if scales:
            return picture_of_scales(self.stacked, images, alpha=alpha)
        return picture(self.combined, images, cmap=cmap, alpha=alpha)

    def show(
        self,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
    ) -> None:
        """Show the picture in the notebook, or else in the viewer of the desktop.

        Args:
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.

        Raises:
            RuntimeError: If there is neither a notebook nor a viewer.
            ValueError: As for `picture`.
        """
        self.picture(images, scales=scales, cmap=cmap, alpha=alpha).show()

    def save(
        self,
        path: str | Path,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
    ) -> None:
        """Write the picture to a file, whole or not at all.

        Args:
            path: The file, such as "cat.png" or "cat.jpg".
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.

        Raises:
            OSError: If the file cannot be written.
            ValueError: As for `picture`, or if the suffix is no picture's.
        """
        self.picture(images, scales=scales, cmap=cmap, alpha=alpha).save(path)

    def to_pil(
        self,
        images: Tensor | ImageBatch | None = None,
        *,
        scales: bool = False,
        cmap: str | None = None,
        alpha: float = 0.8,
    ) -> Any:
        """Return the picture as an image of Pillow.

        Args:
            images: As for `picture`, as all that follow.
            scales: True colours scales.
            cmap: The name of a colour map.
            alpha: Opacity of what is most salient.

        Raises:
            ImportError: If Pillow is not installed.
            ValueError: As for `picture`.
        """
        return self.picture(images, scales=scales, cmap=cmap, alpha=alpha).to_pil()


def described(name: str, combined: Tensor, scales: Sequence[Scale], output: Any = None) -> str:
    """Return maps in one line: their number, their size, their scales and the output's shape.

    >>> described("Maps", torch.zeros(2, 8, 6), ())
    'Maps(2 images of 8x6, 0 scales)'
    """
    count, height, width = combined.shape
    images, counted = "image" if count == 1 else "images", f"{len(scales)} scales"
    if len(scales) == 1:
        counted = f"1 scale: {scales[0].name!r}"
    elif scales:
        counted += f": {scales[0].name!r} to {scales[-1].name!r}"
    shape = f", logits {tuple(output.shape)}" if isinstance(output, Tensor) else ""
    return f"{name}({count} {images} of {height}x{width}, {counted}{shape})"
