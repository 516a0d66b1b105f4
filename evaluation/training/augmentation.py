"""Augmentation of masked images by indexing: crops and flips without interpolation.

Interpolation after the mask would mix removed and kept pixels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evaluation.seeding import generator
from evaluation.training.recipe import Recipe

__all__ = ["EpochDraw", "crop_and_flip", "resize_crops", "resized_boxes"]

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
        return cls(
            rng.permutation(n),
            rng.integers(0, offsets, n),
            rng.integers(0, offsets, n),
            rng.random(n) < 0.5 if recipe.flip else np.zeros(n, dtype=bool),
            rng.random((n, 4)) if recipe.resized_crop else None,
        )

    def add_to(self, digest: hashlib._Hash) -> None:
        """Update a hash with all draws."""
        for array in (self.order, self.top, self.left, self.flip, self.crop):
            if array is not None:
                digest.update(array.tobytes())

    def augment(self, images: Tensor, indices: NDArray[np.integer], recipe: Recipe) -> Tensor:
        """The images with this epoch's crops and flips.

        Args:
            images: ``(B, C, H, W)``, on any device; volumes and signals of recipes that neither
                crop nor flip.
            indices: ``(B,)``, indices of the images.
            recipe: the training's recipe.

        Raises:
            ValueError: crops or flips of volumes or signals.
        """
        if images.dim() != 4 and (self.crop is not None or recipe.crop_padding or recipe.flip):
            raise ValueError(
                f"crops and flips are for images (B, C, H, W), and these inputs are "
                f"{tuple(images.shape)}: train volumes and signals with crop_padding=0 and "
                "flip=False (--crop-padding 0 --no-flip)"
            )
        if self.crop is not None:
            height, width = images.shape[2:]
            boxes = resized_boxes(self.crop[indices], height, width, recipe.resized_crop)
            images = resize_crops(images, boxes)
        if recipe.crop_padding or recipe.flip:
            images = crop_and_flip(
                images,
                self.top[indices],
                self.left[indices],
                self.flip[indices],
                recipe.crop_padding,
            )
        return images


def crop_and_flip(
    images: Tensor,
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    flip: NDArray[np.bool_],
    padding: int,
) -> Tensor:
    """Crop each padded image at its own offset and mirror some images.

    The padding is 0, the channel mean after normalisation.

    Args:
        images: ``(B, C, H, W)``.
        top: ``(B,)`` first row of the crop, ``0 .. 2 * padding``.
        left: ``(B,)`` first column of the crop, ``0 .. 2 * padding``.
        flip: ``(B,)`` True for images to mirror.
        padding: pixels added at each side.

    Returns:
        ``(B, C, H, W)``.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> crop_and_flip(image, np.array([1]), np.array([1]), np.array([True]), 1).tolist()
    [[[[2.0, 1.0], [4.0, 3.0]]]]
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4) if padding else images
    rows = torch.from_numpy(top)[:, None] + torch.arange(height)
    columns = torch.from_numpy(left)[:, None] + torch.arange(width)
    columns = torch.where(torch.from_numpy(flip)[:, None], columns.flip(1), columns)
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


def resize_crops(images: Tensor, boxes: NDArray[np.integer]) -> Tensor:
    """Resize each image's box to the image's size by nearest neighbours.

    Pixel i of n takes pixel floor((i + 1/2) * box / n) of the box. Deviates from He et al. and
    Hooker et al., who interpolate bilinearly: that would mix removed and kept pixels, and so change
    both how much is removed and what a removed pixel is.

    Args:
        images: ``(B, C, H, W)``.
        boxes: ``(B, 4)``, from `resized_boxes`.

    Returns:
        ``(B, C, H, W)``.

    >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> resize_crops(image, np.array([[1, 2, 2, 2]]))[0, 0].tolist()[1]
    [6.0, 6.0, 7.0, 7.0]
    """
    height, width = images.shape[2:]
    top, left, rows, columns = torch.from_numpy(boxes).T[:, :, None]
    return _gather(
        images,
        top + _sources(rows, height),
        left + _sources(columns, width),
    )


def _sources(extent: Tensor, pixels: int) -> Tensor:
    # In whole numbers, without rounding.
    return (2 * torch.arange(pixels) + 1) * extent // (2 * pixels)


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixels (rows[b, y], columns[b, x]) of each image b, on the images' device."""
    rows, columns = (
        places.pin_memory().to(images.device, non_blocking=True) if images.is_cuda else places
        for places in (rows, columns)
    )
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
