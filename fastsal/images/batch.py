"""Batches for a network from files, images of Pillow, arrays and tensors, normalised for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastsal.images.files import (
    checked_window,
    pixels_of,
    read_photograph,
    resized_size,
    with_channels,
)

__all__ = ["ImageBatch", "load_images"]

DEFAULT_SIZE = 224


@dataclass(frozen=True, eq=False, repr=False)
class ImageBatch:
    """Images for a network, and the same images for pictures.

    Attributes:
        inputs: `(N, C, H, W)`, normalised as the network expects.
        pixels: `(N, 3, H, W)` RGB in [0, 1], before the normalisation, for `overlay`.
        mean: The mean of each channel, which was subtracted.
        std: The standard deviation of each channel, which was divided by.
    """

    inputs: Tensor
    pixels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __repr__(self) -> str:
        return f"ImageBatch(inputs={tuple(self.inputs.shape)}, mean={self.mean}, std={self.std})"


def load_images(
    images: Any,
    network: Any = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    crop: bool = True,
    window: tuple[float, float] | None = None,
) -> ImageBatch:
    """Load images as a normalised batch for a network.

    Each image is resized, bilinear and antialiased, to `size` pixels on its shorter side, and the
    square in its middle is taken. Files and images of Pillow are turned upright, and transparent
    pixels become white.

    Args:
        images: A path, an image of Pillow, a NumPy array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` or
            `(H, W, 4)`, or a tensor `(C, H, W)` or `(N, C, H, W)` with 1 or 3 channels; or a
            list of them. Arrays and tensors are uint8, or floating-point in [0, 1].
        network: The source of mean, standard deviation and size: a network of timm
            (`pretrained_cfg` or `default_cfg`); weights of torchvision
            (`ResNet50_Weights.DEFAULT`), or their `transforms()`; a processor of transformers
            (`image_mean`, `image_std`). A network of torchvision does not carry its own.
        mean: The mean of each channel, or None for the network's.
        std: The standard deviation of each, or None for the network's.
        size: The shorter side in pixels; None takes the network's, or 224.
        crop: False keeps the whole image, in its proportions; the images of one batch must then
            have one shape.
        window: (low, high), the grey values that become 0 and 1, for pictures of 12 or 16 bits and
            arrays of any type; None takes files as `fastsal maps` does.

    Returns:
        The `ImageBatch`: `inputs` for the network and `pixels` for pictures.

    Raises:
        ImportError: If Pillow is needed and not installed.
        OSError: If a file cannot be read.
        TypeError: If an image or the network is of a kind that is not known.
        ValueError: If the normalisation is not known, values lie outside [0, 1], or shapes differ.

    >>> grey_pixel = torch.full((3, 2, 4), 0.5)
    >>> batch = load_images(grey_pixel, mean=(0.5, 0.4, 0.3), std=(0.1, 0.1, 0.2), size=2)
    >>> batch.inputs.shape, batch.inputs[0, :, 0, 0].mul(100).round().tolist()
    (torch.Size([1, 3, 2, 2]), [0.0, 100.0, 100.0])
    """
    known_mean, known_std, known_size = (
        (None, None, None) if network is None else _published(network)
    )
    mean, std = mean if mean is not None else known_mean, std if std is not None else known_std
    if mean is None or std is None:
        raise ValueError(
            "load_images: the network's normalisation is not known; give a timm network, "
            "torchvision's weights such as ResNet50_Weights.DEFAULT, or mean= and std="
        )
    mean, std = tuple(float(x) for x in mean), tuple(float(x) for x in std)
    if len(mean) != len(std) or min(std, default=0.0) <= 0:
        raise ValueError(
            f"load_images: mean {mean} and std {std}; expected one number for each channel, std "
            "above 0"
        )
    size = size or known_size or DEFAULT_SIZE
    shown = None if window is None else checked_window(window)
    loaded = [one for given in _listed(images) for one in _read(given, size, shown)]
    if not loaded:
        raise ValueError("load_images: no image was given; give at least one")
    if crop:
        loaded = [
            (_middle(image, size), None if opacity is None else _middle(opacity, size))
            for image, opacity in loaded
        ]
    shapes = sorted({tuple(image.shape[2:]) for image, _ in loaded})
    if len(shapes) > 1:
        raise ValueError(
            f"load_images: resized, the images have the heights and widths {shapes}; expected one, "
            "as crop=True makes it"
        )
    given = torch.cat([with_channels(image, opacity, len(mean)) for image, opacity in loaded])
    centre, spread = (given.new_tensor(x).reshape(1, -1, 1, 1) for x in (mean, std))
    return ImageBatch((given - centre) / spread, torch.cat([x for x, _ in loaded]), mean, std)


def _published(network: Any) -> tuple[Any, Any, int | None]:
    """Return the mean, the standard deviation and the size that a network or its weights carry."""
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None)
    if isinstance(config, dict) and "mean" in config and "std" in config:
        sides = config.get("input_size")
        return config["mean"], config["std"], None if sides is None else min(sides[1:])
    if isinstance(network, type) and hasattr(network, "DEFAULT"):
        raise TypeError(
            f"load_images: {network.__name__} is a set of weights; give one, such as "
            f"{network.__name__}.DEFAULT"
        )
    carrier = network
    if callable(getattr(network, "transforms", None)) and not isinstance(network, nn.Module):
        carrier = network.transforms()
    if hasattr(carrier, "image_mean") and hasattr(carrier, "image_std"):
        return carrier.image_mean, carrier.image_std, None
    mean, std = getattr(carrier, "mean", None), getattr(carrier, "std", None)
    if mean is None or std is None:
        raise TypeError(
            f"load_images: {type(network).__name__} does not carry its normalisation; give its "
            "weights, such as ResNet50_Weights.DEFAULT, or mean= and std="
        )
    sides = getattr(carrier, "crop_size", None)
    if isinstance(sides, Sequence):
        sides = min(sides, default=None)
    return mean, std, sides


def _listed(images: Any) -> list[Any]:
    return list(images) if isinstance(images, (list, tuple)) else [images]


def _read(
    given: Any, size: int, window: tuple[float, float] | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Return resized images `(1, 3, H, W)` and, where there are transparent pixels, RGBA."""
    if isinstance(given, (str, os.PathLike)):
        photograph = read_photograph(Path(given), size, window)
        return [(photograph.image, photograph.with_opacity)]
    if hasattr(given, "getbands") and hasattr(given, "tobytes"):
        photograph = pixels_of(given, size, window=window)
        return [(photograph.image, photograph.with_opacity)]
    if isinstance(given, Tensor):
        tensor, where = given, "a tensor (C, H, W) or (N, C, H, W) with 1 or 3 channels"
        batch = tensor[None] if tensor.dim() == 3 else tensor
        fits = batch.dim() == 4 and batch.shape[1] in (1, 3)
    elif hasattr(given, "__array_interface__"):
        # A copy, since torch takes no array whose order is turned, such as BGR made RGB.
        copied = given.copy() if hasattr(given, "copy") else given
        tensor = torch.as_tensor(copied, dtype=None, device="cpu")
        where = "an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        laid = tensor[..., None] if tensor.dim() == 2 else tensor
        fits = laid.dim() == 3 and laid.shape[2] in (1, 3, 4)
        batch = laid.movedim(-1, 0)[None] if fits else laid
    else:
        raise TypeError(
            f"load_images: an image is {type(given).__name__}; expected a path, an image of "
            "Pillow, a NumPy array or a tensor, or a list of them"
        )
    if not fits or 0 in batch.shape[1:]:
        raise ValueError(f"load_images: an image has shape {tuple(tensor.shape)}; expected {where}")
    batch = _in_unit_range(batch) if window is None else _in_window(batch, *window)
    with_opacity = None
    if batch.shape[1] == 4:
        with_opacity = _resized(batch, size)
        batch = batch[:, :3] * batch[:, 3:] + 1 - batch[:, 3:]
    batch = _resized(batch, size).expand(-1, 3, -1, -1)
    return [
        (batch[[index]], None if with_opacity is None else with_opacity[[index]])
        for index in range(len(batch))
    ]


def _in_unit_range(batch: Tensor) -> Tensor:
    """Return the images of an array as float32 in [0, 1]."""
    if batch.dtype == torch.uint8:
        return batch.float() / 255
    if not batch.is_floating_point():
        raise TypeError(
            f"load_images: an image holds {batch.dtype}; expected uint8, or floats in [0, 1]"
        )
    batch = batch.detach().float()
    least, most = (bound.item() for bound in torch.aminmax(batch))
    # A NaN compares false, and so raises too.
    if not (least >= 0 and most <= 1):
        raise ValueError(
            f"load_images: an image holds values from {least:.4g} to {most:.4g}; expected [0, 1], "
            "before any normalisation: divide 8-bit values by 255, or give them as uint8"
        )
    return batch


def _in_window(batch: Tensor, low: float, high: float) -> Tensor:
    """Return grey images of any type with a window of their values as [0, 1]."""
    if batch.shape[1] != 1:
        raise ValueError(
            f"load_images: window=({low:g}, {high:g}) is for grey images, and one has "
            f"{batch.shape[1]} channels; leave it out"
        )
    values = batch.detach().to(torch.float64)
    if not bool(values.isfinite().all()):
        raise ValueError("load_images: an image holds values that are not finite")
    return ((values - low) / (high - low)).clamp(0, 1).float()


def _resized(batch: Tensor, size: int) -> Tensor:
    height, width = batch.shape[2:]
    new_width, new_height = resized_size(width, height, size)
    if (new_height, new_width) == (height, width):
        return batch
    return F.interpolate(
        batch, (new_height, new_width), mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)


def _middle(image: Tensor, size: int) -> Tensor:
    """Return the square in the middle of an image."""
    height, width = image.shape[2:]
    if min(height, width) < size:
        raise ValueError(
            f"load_images: an image is too thin for a square of {size} pixels; give crop=False"
        )
    top, left = (height - size) // 2, (width - size) // 2
    return image[:, :, top : top + size, left : left + size]
