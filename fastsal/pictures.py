"""Photographs in, pictures out: files as tensors, without a display."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.model_names import needed

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"))
# Enough for a satellite's frame; a strip of one pixel's height enlarged to 224 is beyond it.
MOST_PIXELS = 1 << 28


def find_photographs(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield (file, its name below the folder that was given) of files and whole folders.

    A folder gives the image files in it and below it, by name; a file gives itself, whatever it is
    called.

    Raises:
        FileNotFoundError: If a path is neither.

    >>> list(find_photographs([]))
    []
    """
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.suffix.lower() in SUFFIXES and file.is_file():
                    yield file, file.relative_to(path)
        elif path.exists():
            yield path, Path(path.name)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")


def read_photograph(path: Path, size: int | None) -> tuple[Tensor, tuple[int, int]]:
    """Return an image file as a network sees it, and its own size.

    The camera's orientation is applied; grey, palette, 16-bit and transparent images become RGB.

    Args:
        path: The file.
        size: The shorter side in pixels after resizing; None keeps the file's own.

    Returns:
        The image `(1, 3, H, W)` in [0, 1], and (width, height) as in the file.

    Raises:
        ValueError: If the file is no image, is damaged, or would be too large.
    """
    opened: Any = needed("PIL.Image", "reading images")
    orientation: Any = needed("PIL.ImageOps", "reading images")
    try:
        with opened.open(path) as file:
            upright = orientation.exif_transpose(file)
            pixels = _pixels(upright)
    # Pillow raises whatever its decoders do, from OSError to SyntaxError.
    except Exception as error:
        raise ValueError(f"cannot be read as an image: {error}") from error
    height, width = pixels.shape[2:]
    if size is None:
        return pixels, (width, height)
    factor = size / min(height, width)
    shape = [max(size, round(side * factor)) for side in (height, width)]
    if shape[0] * shape[1] > MOST_PIXELS:
        raise ValueError(
            f"is {width}x{height} pixels and would be {shape[1]}x{shape[0]} with a shorter side of "
            f"{size}; choose a smaller --size, or --size original"
        )
    resized = F.interpolate(pixels, shape, mode="bilinear", antialias=True)
    return resized.clamp_(0, 1), (width, height)


def _pixels(image: Any) -> Tensor:
    if image.mode.startswith("I"):
        # Sixteen bits a pixel; to RGB they would be cut off at 255.
        grey = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
        scaled = grey.reshape(1, 1, image.height, image.width).float() / 65535
        return scaled.clamp_(0, 1).expand(-1, 3, -1, -1).contiguous()
    rgb = image.convert("RGB")
    content = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return content.reshape(1, rgb.height, rgb.width, 3).movedim(-1, 1).float() / 255


def write_png(picture: Tensor, path: Path) -> None:
    """Write a picture `(3, H, W)` in [0, 1] as PNG, whole or not at all."""
    image: Any = needed("PIL.Image", "writing images")
    pixels = picture.mul(255).round().to(torch.uint8).movedim(0, -1).contiguous()
    size = (picture.shape[2], picture.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            image.frombytes("RGB", size, pixels.cpu().numpy().tobytes()).save(file, format="PNG")
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink()
        raise
