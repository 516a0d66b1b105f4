"""Photographs from files and pictures to files, by Pillow: any mode, any size, no display."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastsal.files import written_whole
from fastsal.optional import needed

# What Pillow reads without further packages; frames after the first are left out.
SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# A strip of one pixel's height would otherwise become a hundred megapixels.
LONGEST = 16
SIXTEEN_BITS = 65535


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph as a network is shown it.

    Attributes:
        image: `(1, 3, H, W)` RGB in [0, 1], before the network's normalisation.
        width: In pixels, of the file's picture held upright.
        height: In pixels.
    """

    image: Tensor
    width: int
    height: int


def find_photographs(paths: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield every photograph's file and its place below the folder that all paths share.

    A folder gives the image files in it and below it, by name, but nothing hidden, nothing below
    `out`, and no folder that is a link. A file gives itself, whatever it is called. None comes
    twice.

    Args:
        paths: Files and folders.
        out: Where pictures go.

    Raises:
        FileNotFoundError: If a path is neither.
        ValueError: If `out` is one of the folders.

    >>> [str(place) for _, place in find_photographs([Path(__file__)], Path("maps"))]
    ['files.py']
    """
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(f"there is no file or folder {missing[0]}")
    target = _absolute(out)
    folders = [_absolute(path if path.is_dir() else path.parent) for path in paths]
    shared = os.path.commonpath(folders)
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir() and _absolute(path) == target:
            raise ValueError(f"{path} has the photographs; give --out another folder, or one in it")
        for file in _below(path, target) if path.is_dir() else [path]:
            place = _absolute(file)
            if place not in seen:
                seen.add(place)
                yield file, Path(os.path.relpath(place, shared))


def _absolute(path: Path) -> Path:
    # Links stay as they are named, since names are what the pictures are called by.
    return Path(os.path.normpath(path.absolute()))


def _below(folder: Path, target: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and _absolute(Path(place, name)) != target
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place) / name


def read_photograph(path: Path, size: int | None) -> Photograph:
    """Return the photograph of a file, upright, in RGB, at the size a network is shown.

    Its EXIF orientation is applied. What is transparent is white. 16-bit grey keeps its range;
    float pixels have to lie in [0, 1]. It is resized as torchvision's `Resize` does it: bilinear,
    antialiased.

    Args:
        path: A file that Pillow reads.
        size: Of the shorter side in pixels; None keeps the photograph's own size.

    Returns:
        The `Photograph`.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If the file cannot be read; broken files raise other errors of Pillow's too.
        ValueError: If its pixels have no fixed range.
    """
    pillow, operations = _pillow("Image"), _pillow("ImageOps")
    with pillow.open(path) as file:
        # In place, since a copy of a large photograph is hundreds of megabytes.
        operations.exif_transpose(file, in_place=True)
        picture = _rgb(pillow, file)
        width, height = picture.size
        shown = shown_size(width, height, size)
        if shown != (width, height):
            picture = picture.resize(shown, pillow.Resampling.BILINEAR)
        return Photograph(tensor_of(picture), width, height)


def tensor_of(picture: Any) -> Tensor:
    """Return a Pillow image in RGB as a tensor `(1, 3, H, W)` in [0, 1]."""
    width, height = picture.size
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, height, width, 3).movedim(-1, 1).float() / 255


def shown_size(width: int, height: int, size: int | None) -> tuple[int, int]:
    """Return (width, height) at which a photograph is shown to the network.

    The shorter side gets `size` pixels and the longer follows, rounded down as torchvision does
    it; but no side gets more than 16 times `size`, so that a thin strip stays thin.

    >>> shown_size(640, 427, 224), shown_size(500, 1, 224), shown_size(500, 1, None)
    ((335, 224), (3584, 7), (500, 1))
    """
    if size is None:
        return width, height
    shorter, longer = min(width, height), max(width, height)
    if longer <= LONGEST * shorter:
        shorter, longer = size, int(size * longer / shorter)
    else:
        longest = LONGEST * size
        shorter, longer = max(1, round(shorter * longest / longer)), longest
    return (shorter, longer) if width <= height else (longer, shorter)


def write_png(picture: Tensor, path: Path) -> None:
    """Write a picture as PNG of 8 bits, whole or not at all.

    Args:
        picture: `(3, H, W)` RGB or `(H, W)` grey, in [0, 1].
        path: Its folder is made where it is missing.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If it cannot be written; a file that was there stays as it was.
    """
    pixels = picture.mul(255).round().to(torch.uint8).cpu()
    mode = "L" if pixels.dim() == 2 else "RGB"
    size = (pixels.shape[-1], pixels.shape[-2])
    if mode == "RGB":
        pixels = pixels.movedim(0, -1)
    image = _pillow("Image").frombytes(mode, size, pixels.contiguous().numpy().tobytes())
    with written_whole(path) as partial, partial.open("wb") as file:
        image.save(file, format="PNG")


def _rgb(pillow: Any, picture: Any) -> Any:
    """Return a Pillow image as RGB of 8 bits."""
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        low, high = picture.convert("I").getextrema()
        if low < 0 or high > SIXTEEN_BITS:
            raise ValueError(f"its whole-number pixels go from {low} to {high}, beyond 16 bits")
        # Pillow's own conversion cuts off at 255.
        picture = _eight_bits(picture.convert("I").convert("F"), SIXTEEN_BITS)
    elif picture.mode == "F":
        low, high = picture.getextrema()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"its float pixels go from {low:.4g} to {high:.4g}, expected [0, 1]: "
                "rescale it, or save it with 8 or 16 bits"
            )
        picture = _eight_bits(picture, 1)
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = pillow.new("RGBA", picture.size, "white")
        picture = pillow.alpha_composite(white, picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: Any, largest: float) -> Any:
    factor = 255 / largest
    # The half rounds, since the conversion from float cuts off.
    return picture.point(lambda value: value * factor + 0.5).convert("L")


def _pillow(module: str) -> Any:
    return needed(f"PIL.{module}", "reading and writing images", "pillow")
