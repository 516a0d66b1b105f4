"""Augmentation of masked images by indexing: crops and flips without interpolation.

Interpolation after the mask would mix removed and kept pixels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evaluation.seeding import generator
from evaluation.training.recipe import Recipe

__all__ = ["EpochDraw", "PlacedDraw", "crop_and_flip", "resize_crops", "resized_boxes"]

# Largest ratio of width and height of a resized crop, either way.
_MOST_STRETCHED = 4 / 3


@dataclass(frozen=True)
class EpochDraw:
    """The random draws of one epoch; entry i of all but the order belongs to image i.

    Args:
        order: ``(N,)``, the images in the order of the epoch.
        top: ``(N,)``, first row of the padded crop.
        left: ``(N,)``, first column of the padded crop.
        flip: ``(N,)``, True for images to mirror.
        crop: ``(N, 4)`` in [0, 1), for `resized_boxes`; None if crops are not resized.
    """

    order: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]
    crop: NDArray[np.float64] | None

    @classmethod
    def make(cls, n: int, recipe: Recipe, seed: int, epoch: int) -> EpochDraw:
        """The draws of an epoch of `n` images, which depend on the arguments alone."""
        rng = generator(seed, epoch)
        offsets = 2 * recipe.crop_padding + 1
        order = rng.permutation(n)
        top, left = (rng.integers(0, offsets, n) for _ in range(2))
        flip = rng.random(n) < 0.5 if recipe.flip else np.zeros(n, dtype=bool)
        if recipe.alternating_flip:
            # Drawn once; every second epoch shows the other side.
            flip = (generator(seed, 0).random(n) < 0.5) ^ (epoch % 2 == 0)
        return cls(order, top, left, flip, rng.random((n, 4)) if recipe.resized_crop else None)

    def add_to(self, digest: hashlib._Hash) -> None:
        """Update a hash with all draws."""
        for array in (self.order, self.top, self.left, self.flip, self.crop):
            if array is not None:
                digest.update(array.tobytes())

    def on(self, device: str | torch.device, recipe: Recipe) -> PlacedDraw:
        """The draws on a device, where they augment batches without another transfer.

        Args:
            device: the device of the images.
            recipe: the recipe that the draws were made for.
        """
        top, left, flip = (
            torch.from_numpy(array).to(device) for array in (self.top, self.left, self.flip)
        )
        return PlacedDraw(top, left, flip, self.crop, recipe)


@dataclass
class PlacedDraw:
    """The draws of one epoch on the device of its images; entry i belongs to image i.

    Args:
        top: ``(N,)``, first row of the padded crop.
        left: ``(N,)``, first column of the padded crop.
        flip: ``(N,)``, True for images to mirror.
        crop: ``(N, 4)`` in [0, 1), for `resized_boxes`; None if crops are not resized.
        recipe: the training's recipe.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    crop: NDArray[np.float64] | None
    recipe: Recipe
    _boxes: Tensor | None = field(default=None, init=False)

    def augment(self, images: Tensor, index: Tensor) -> Tensor:
        """The images with this epoch's crops and flips.

        Args:
            images: ``(B, C, H, W)``, all batches of one size and on the draws' device; volumes and
                signals of recipes that neither crop nor flip.
            index: ``(B,)``, indices of the images, there too.

        Raises:
            ValueError: crops or flips of volumes or signals.
        """
        flipped = self.recipe.flip or self.recipe.alternating_flip
        if images.dim() != 4 and (self.crop is not None or self.recipe.crop_padding or flipped):
            raise ValueError(
                f"crops and flips are for images (B, C, H, W), and these inputs are "
                f"{tuple(images.shape)}: train volumes and signals with crop_padding=0 and "
                "flip=False (--augment none)"
            )
        if self.crop is not None:
            if self._boxes is None:
                height, width = images.shape[2:]
                boxes = resized_boxes(self.crop, height, width, self.recipe.resized_crop)
                self._boxes = torch.from_numpy(boxes).to(images.device)
            images = resize_crops(images, self._boxes[index])
        if self.recipe.crop_padding or flipped:
            images = crop_and_flip(
                images,
                self.top[index],
                self.left[index],
                self.flip[index],
                self.recipe.crop_padding,
            )
        return images


def crop_and_flip(
    images: Tensor,
    top: Tensor,
    left: Tensor,
    flip: Tensor,
    padding: int,
) -> Tensor:
    """Crop each padded image at its own offset and mirror some images.

    The padding is 0, the channel mean after normalisation.

    Args:
        images: ``(B, C, H, W)``.
        top: ``(B,)`` first row of the crop, ``0 .. 2 * padding``, on the images' device.
        left: ``(B,)`` first column of the crop, ``0 .. 2 * padding``, there too.
        flip: ``(B,)`` True for images to mirror, there too.
        padding: pixels added at each side.

    Returns:
        ``(B, C, H, W)``.

    >>> image, one = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([1])
    >>> crop_and_flip(image, one, one, torch.tensor([True]), 1).tolist()
    [[[[2.0, 1.0], [4.0, 3.0]]]]
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4) if padding else images
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    return _gather(padded, rows, columns)


def resized_boxes(
    draw: NDArray[np.floating], height: int, width: int, least: float
) -> NDArray[np.int64]:
    """Random boxes for resized crops, as Szegedy et al. draw them.

    The share of the area is uniform in [least, 1], the logarithm of width / height uniform
    between those of 3/4 and 4/3, and the position uniform. Deviates from torchvision, which draws
    again if a box does not fit: here the shape is drawn among those that fit, and if none does, in
    an image longer than 4/3, it is cut to the image.

    Args:
        draw: ``(B, 4)`` uniform in [0, 1): area, shape, row and column.
        height: rows of the image.
        width: columns of the image.
        least: least share of the area.

    Returns:
        ``(B, 4)``: first row, first column, rows and columns, at least 1 of each.

    Reference:
        arXiv 1409.4842, section 6.

    >>> resized_boxes(np.array([[0.0, 0.5, 0.0, 0.99]]), 8, 8, 0.25).tolist()
    [[0, 4, 4, 4]]
    """
    area = (least + (1.0 - least) * draw[:, 0]) * height * width
    stretch = math.log(_MOST_STRETCHED)
    # At the limits, a box of this area is as high as the image, or as wide.
    lowest = np.maximum(-stretch, np.log(area / height**2))
    highest = np.maximum(np.minimum(stretch, np.log(width**2 / area)), lowest)
    ratio = np.exp(lowest + (highest - lowest) * draw[:, 1])
    rows = np.clip(np.rint(np.sqrt(area / ratio)), 1, height).astype(np.int64)
    columns = np.clip(np.rint(np.sqrt(area * ratio)), 1, width).astype(np.int64)
    top = (draw[:, 2] * (height - rows + 1)).astype(np.int64)
    left = (draw[:, 3] * (width - columns + 1)).astype(np.int64)
    return np.stack([top, left, rows, columns], axis=1)


def resize_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Resize each image's box to the image's size by nearest neighbours.

    Pixel i of n takes pixel floor((i + 1/2) * box / n) of the box. Deviates from He et al. and
    Hooker et al., who interpolate bilinearly: that would mix removed and kept pixels, and so change
    both how much is removed and what a removed pixel is.

    Args:
        images: ``(B, C, H, W)``.
        boxes: ``(B, 4)``, from `resized_boxes`, on the images' device.

    Returns:
        ``(B, C, H, W)``.

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> resize_crops(image, torch.tensor([[1, 2, 2, 2]]))[0, 0].tolist()[1]
    [6.0, 6.0, 7.0, 7.0]
    """
    height, width = images.shape[2:]
    top, left, rows, columns = boxes.T[:, :, None]
    return _gather(
        images,
        top + _sources(rows, height),
        left + _sources(columns, width),
    )


def _sources(extent: Tensor, pixels: int) -> Tensor:
    # In whole numbers, without rounding.
    return (2 * torch.arange(pixels, device=extent.device) + 1) * extent // (2 * pixels)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[b, y], columns[b, x]) of each image b."""
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
