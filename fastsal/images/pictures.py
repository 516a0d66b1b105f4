"""Pictures of maps and attributions that a notebook shows and a file keeps."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsal.files import written_whole
from fastsal.images.batch import ImageBatch
from fastsal.images.colour import OVERLAY_CMAP, heatmap, lovi, overlay
from fastsal.images.files import eight_bit_image
from fastsal.optional import needed

__all__ = ["Picture", "picture"]

_COLUMNS = 8
# White pixels between the pictures of a batch.
_GAP = 4


class Picture:
    """A picture of a batch's maps, which a notebook shows as the last value of a cell.

    Args:
        rgb: `(N, 3, H, W)` in [0, 1]. The images stand side by side, eight a row.

    Attributes:
        rgb: `(3, H', W')` in [0, 1], all images in one picture.

    Raises:
        ValueError: If there is no image.

    >>> Picture(torch.zeros(2, 3, 8, 8))
    Picture(20x8 pixels)
    """

    def __init__(self, rgb: Tensor) -> None:
        if not len(rgb):
            raise ValueError("there is no map to draw; expected a batch of one image or more")
        self.rgb = _side_by_side(rgb.detach().float().cpu())

    def __repr__(self) -> str:
        return f"Picture({self.rgb.shape[2]}x{self.rgb.shape[1]} pixels)"

    def _repr_png_(self) -> bytes:
        with BytesIO() as file:
            self.to_pil().save(file, format="PNG")
            return file.getvalue()

    def to_pil(self) -> Any:
        """Return the picture as an image of Pillow in RGB.

        Raises:
            ImportError: If Pillow is not installed.
        """
        return eight_bit_image(self.rgb)

    def save(self, path: str | Path) -> None:
        """Write the picture to a file, whole or not at all.

        Args:
            path: The file; its suffix is one that Pillow writes, such as .png or .jpg. Its folder
                is made if it is missing.

        Raises:
            ImportError: If Pillow is not installed.
            OSError: If the file cannot be written; an earlier file stays as it was.
            ValueError: If Pillow writes no file of that suffix.
        """
        path = Path(path)
        pillow: Any = needed("PIL.Image", "writing pictures", "pillow")
        form = pillow.registered_extensions().get(path.suffix.lower())
        if form not in pillow.SAVE:
            raise ValueError(
                f"cannot write {str(path)!r}: {path.suffix!r} is no suffix of a picture; give one "
                "such as .png or .jpg"
            )
        with written_whole(path) as partial:
            self.to_pil().save(partial, format=form)

    def show(self) -> None:
        """Show the picture: in the notebook, or else in the viewer of the desktop.

        Raises:
            ImportError: If Pillow is not installed.
            RuntimeError: If there is neither a notebook nor a viewer.
        """
        shell = sys.modules.get("IPython")
        if shell is not None and shell.get_ipython() is not None:
            needed("IPython.display", "showing pictures", "ipython").display(self)
            return
        viewer: Any = needed("PIL.ImageShow", "showing pictures", "pillow")
        if not viewer.show(self.to_pil()):
            raise RuntimeError("no viewer of pictures was found here; use save(path)")


def picture(
    attribution: Tensor,
    images: Tensor | ImageBatch | None = None,
    *,
    cmap: str | None = None,
    alpha: float = 0.8,
) -> Picture:
    """Draw an attribution or a map, over its images if they are given.

    An attribution is drawn by the absolute value of its mean over channels, each image divided by
    its largest. Maps in [0, 1] are drawn as they are, others likewise divided. Maps of another size
    than the images, as class activation maps have, are stretched over them, bilinear.

    Args:
        attribution: `(N, C, H, W)`, what `attribute` returns; or maps `(N, H, W)`.
        images: `(N, 3, H, W)` or, for one map, `(3, H, W)`, RGB in [0, 1] before the network's
            normalisation; or the `ImageBatch` of `load_images`. None draws the map alone.
        cmap: The name of a colour map, as for `heatmap`; None takes inferno over images and magma
            alone.
        alpha: Opacity of what is most salient, in [0, 1]; without images it counts nothing.

    Returns:
        The `Picture`, with `show()`, `save(path)` and `to_pil()`.

    Raises:
        TypeError: If the attribution is no floating-point tensor.
        ValueError: If it has other dimensions or values that are not finite, or `overlay` raises.

    >>> picture(torch.rand(1, 3, 8, 8), torch.rand(3, 8, 8))
    Picture(8x8 pixels)
    """
    maps = _drawable(attribution)
    pixels = pixels_for(maps, images)
    if pixels is None:
        return Picture(heatmap(maps, cmap=cmap or "magma"))
    if maps.shape[-2:] != pixels.shape[-2:]:
        maps = F.interpolate(maps[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]
    return Picture(overlay(pixels, maps.to(pixels.device), alpha, cmap=cmap or OVERLAY_CMAP))


def picture_of_scales(
    stacked: Tensor, images: Tensor | ImageBatch | None = None, *, alpha: float = 0.8
) -> Picture:
    """Draw the maps of all scales as `lovi` colours them, over their images if they are given.

    Args:
        stacked: `(N, R, H, W)`, one map a scale.
        images: As for `picture`.
        alpha: As for `picture`.

    Raises:
        ValueError: As for `picture`.

    >>> picture_of_scales(torch.rand(1, 2, 8, 8))
    Picture(8x8 pixels)
    """
    maps = _bounded(stacked)
    pixels = pixels_for(maps, images)
    return Picture(lovi(maps) if pixels is None else overlay(pixels, maps.to(pixels.device), alpha))


def pixels_for(maps: Tensor, images: Tensor | ImageBatch | None) -> Tensor | None:
    """Return the images below maps as `(N, 3, H, W)`, or None without them.

    Raises:
        TypeError: If they are neither a tensor nor an `ImageBatch`.

    >>> pixels_for(torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)).shape
    torch.Size([1, 3, 2, 2])
    """
    if images is None:
        return None
    pixels = images.pixels if isinstance(images, ImageBatch) else images
    if not isinstance(pixels, Tensor):
        raise TypeError(
            f"images is {type(images).__name__}; expected a tensor (N, 3, H, W) in [0, 1] or the "
            "batch of fastsal.load_images"
        )
    return pixels[None] if pixels.dim() == 3 and len(maps) == 1 else pixels


def _drawable(attribution: Tensor) -> Tensor:
    """Return maps `(N, H, W)` in [0, 1] of an attribution."""
    if not isinstance(attribution, Tensor) or not attribution.is_floating_point():
        kind = attribution.dtype if isinstance(attribution, Tensor) else type(attribution).__name__
        raise TypeError(f"the attribution is {kind}; expected a floating-point tensor")
    if attribution.dim() not in (3, 4) or 0 in attribution.shape:
        raise ValueError(
            f"the attribution has shape {tuple(attribution.shape)}; expected (N, C, H, W), or maps "
            "(N, H, W)"
        )
    values = attribution.detach().float()
    if values.dim() == 3:
        return _bounded(values)
    return _divided(values.mean(1).abs())


def _bounded(maps: Tensor) -> Tensor:
    """Return maps as they are if they lie in [0, 1], and divided by each image's largest if not."""
    maps = maps.detach().float()
    inside = bool(((maps >= 0) & (maps <= 1)).all())
    return maps if inside else _divided(maps.abs())


def _divided(maps: Tensor) -> Tensor:
    if not maps.isfinite().all():
        raise ValueError("the attribution holds values that are not finite; expected finite ones")
    largest = maps.flatten(1).amax(1).reshape(-1, *[1] * (maps.dim() - 1))
    return maps / torch.where(largest > 0, largest, 1.0)


def _side_by_side(rgb: Tensor) -> Tensor:
    """Return images `(N, 3, H, W)` as one picture, eight a row with white between them."""
    rows = []
    for row in torch.split(rgb, _COLUMNS):
        missing = 0 if len(rgb) <= _COLUMNS else _COLUMNS - len(row)
        cells = [*row, *[torch.ones_like(rgb[0])] * missing]
        padded = [F.pad(cell, (0, _GAP), value=1.0) for cell in cells[:-1]]
        rows.append(torch.cat([*padded, cells[-1]], 2))
    spaced = [F.pad(row, (0, 0, 0, _GAP), value=1.0) for row in rows[:-1]]
    return torch.cat([*spaced, rows[-1]], 1)
