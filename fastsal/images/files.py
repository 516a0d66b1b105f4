"""Photographs read from files and pictures written to files, with Pillow; no display is needed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsal.files import written_whole
from fastsal.images.colour import grey_of
from fastsal.optional import needed

# Formats that Pillow reads without further packages; of several frames the first is taken.
SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
# The most that a longer side gets, in units of `size`: a strip one pixel high would otherwise
# become a hundred megapixels.
MAX_ASPECT = 16
SIXTEEN_BITS = 65535


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph, resized for a network.

    Attributes:
        image: `(1, 3, H, W)` RGB in [0, 1], before the network's normalisation.
        width: Width of the upright picture in the file, in pixels.
        height: Its height, in pixels.
        with_opacity: `(1, 4, H, W)`, the colours in the file and their opacity; None for a picture
            without transparent pixels.
    """

    image: Tensor
    width: int
    height: int
    with_opacity: Tensor | None = None


def find_photographs(paths: Sequence[Path], out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the path of each photograph, and that path relative to the paths' common folder.

    Folders are searched recursively for files with an image suffix, in order of their names.
    Hidden files and folders, links to folders and everything below `out` are skipped. A file that
    is named in `paths` counts whatever its suffix. No file comes twice.

    Args:
        paths: Files and folders.
        out: The folder of the output, which is not searched.

    Raises:
        FileNotFoundError: If a path does not exist.
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
        for file in _image_files(path, target) if path.is_dir() else [path]:
            place = _absolute(file)
            if place not in seen:
                seen.add(place)
                yield file, Path(os.path.relpath(place, shared))


def _absolute(path: Path) -> Path:
    # Links are not resolved, since pictures are named after the path that was given.
    return Path(os.path.normpath(path.absolute()))


def _image_files(folder: Path, target: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and _absolute(Path(place, name)) != target
        )
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place) / name


def read_photograph(
    path: Path, size: int | None, window: tuple[float, float] | None = None
) -> Photograph:
    """Return the photograph in a file, upright, in RGB and resized.

    The EXIF orientation is applied. Transparent pixels become white. 16-bit grey keeps its range;
    float pixels must lie in [0, 1]. The photograph is resized as by torchvision's `Resize`:
    bilinear, antialiased.

    Args:
        path: A file that Pillow can read.
        size: Length of the shorter side in pixels; None keeps the photograph's size.
        window: (low, high), the values of a grey picture that become 0 and 1; those beyond are
            cut off. So 12 bits and 16 keep their steps. None takes 8-bit values, as above.

    Returns:
        The `Photograph`.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If the file cannot be read; for broken files Pillow raises other errors too.
        ValueError: If whole-number pixels exceed 16 bits, or float pixels lie outside [0, 1].
    """
    with _pillow("Image").open(path) as file:
        # In place, since a copy of a large photograph is hundreds of megabytes.
        return pixels_of(file, size, in_place=True, window=window)


def pixels_of(
    picture: Any,
    size: int | None,
    *,
    in_place: bool = False,
    window: tuple[float, float] | None = None,
) -> Photograph:
    """Return an image of Pillow as `read_photograph` returns one in a file.

    Args:
        picture: The image of Pillow.
        size: Length of the shorter side in pixels; None keeps the image's size.
        in_place: True may turn the given image upright; False leaves it as it was.
        window: As for `read_photograph`.

    Returns:
        The `Photograph`.

    Raises:
        ValueError: As for `read_photograph`; if a window is given for colours.
    """
    pillow, operations = _pillow("Image"), _pillow("ImageOps")
    if in_place:
        operations.exif_transpose(picture, in_place=True)
    else:
        picture = operations.exif_transpose(picture)
    if window is not None:
        return _windowed(picture, size, *window)
    pictures = [_rgb(pillow, picture)]
    if picture.has_transparency_data:
        pictures.append(picture.convert("RGBA"))
    width, height = pictures[0].size
    new_size = resized_size(width, height, size)
    if new_size != (width, height):
        bilinear = pillow.Resampling.BILINEAR
        pictures = [one.resize(new_size, bilinear) for one in pictures]
    tensors = [to_tensor(one) for one in pictures]
    return Photograph(tensors[0], width, height, tensors[1] if tensors[1:] else None)


def checked_window(window: Sequence[float]) -> tuple[float, float]:
    """Return a window of grey values, (low, high).

    Raises:
        ValueError: If it is not two numbers, the first below the second.

    >>> checked_window([-1000, 400])
    (-1000.0, 400.0)
    """
    values = tuple(map(float, window))
    if len(values) != 2 or not values[0] < values[1] or not all(map(math.isfinite, values)):
        raise ValueError(
            f"a window is LOW,HIGH, the grey values that become 0 and 1, LOW below HIGH, got "
            f"{tuple(window)}"
        )
    return values[0], values[1]


def _windowed(picture: Any, size: int | None, low: float, high: float) -> Photograph:
    """Return a grey image of Pillow with a window of its values as [0, 1]."""
    if len(picture.getbands()) != 1 or picture.mode in ("P", "1"):
        raise ValueError(
            f"a window {low:g},{high:g} is for grey pictures, and this one's mode is "
            f"{picture.mode}; leave it out"
        )
    values = picture.convert("I") if picture.mode.startswith("I") else picture
    values = values.convert("F")
    width, height = values.size
    numbers = torch.frombuffer(bytearray(values.tobytes()), dtype=torch.float32)
    grey = ((numbers.reshape(1, 1, height, width) - low) / (high - low)).clamp(0, 1)
    across, down = resized_size(width, height, size)
    if (across, down) != (width, height):
        grey = F.interpolate(
            grey, (down, across), mode="bilinear", align_corners=False, antialias=True
        ).clamp(0, 1)
    return Photograph(grey.expand(-1, 3, -1, -1), width, height)


def to_tensor(picture: Any) -> Tensor:
    """Return an image of Pillow as a tensor in [0, 1]: `(1, 3, H, W)` of RGB, 4 of RGBA."""
    width, height = picture.size
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    channels = len(picture.getbands())
    return pixels.reshape(1, height, width, channels).movedim(-1, 1).float() / 255


def with_channels(image: Tensor, with_opacity: Tensor | None, channels: int) -> Tensor:
    """Return a photograph with as many channels as a network takes.

    One channel is grey, `0.299 R + 0.587 G + 0.114 B`, with transparent pixels white; two are the
    grey of the file's colours and their opacity; three are the image; four are the file's colours
    and their opacity. Opacity is 1 where the file has none.

    Args:
        image: `(1, 3, H, W)`.
        with_opacity: `(1, 4, H, W)`, or None.
        channels: 1 to 4.

    Returns:
        `(1, channels, H, W)`.

    Raises:
        ValueError: If there is no rule for the number of channels.

    >>> with_channels(torch.ones(1, 3, 1, 1), None, 2).flatten().tolist()
    [1.0, 1.0]
    """
    if channels == 3:
        return image
    if channels not in (1, 2, 4):
        raise ValueError(
            f"the network takes {channels} channels, and an image file has 1 to 4: grey, grey with "
            "opacity, RGB, RGBA; use SMOEScale in Python for it"
        )
    if channels == 1:
        return grey_of(image)
    if with_opacity is None:
        with_opacity = torch.cat([image, torch.ones_like(image[:, :1])], 1)
    colours = with_opacity[:, :3] if channels == 4 else grey_of(with_opacity[:, :3])
    return torch.cat([colours, with_opacity[:, 3:]], 1)


def resized_size(width: int, height: int, size: int | None) -> tuple[int, int]:
    """Return the (width, height) of an image resized to `size` pixels on its shorter side.

    The longer side keeps the proportions, rounded down as in torchvision. No side gets more than
    16 times `size` pixels, so that a thin strip stays thin.

    >>> resized_size(640, 427, 224), resized_size(500, 1, 224), resized_size(500, 1, None)
    ((335, 224), (3584, 7), (500, 1))
    """
    if size is None:
        return width, height
    shorter, longer = min(width, height), max(width, height)
    if longer <= MAX_ASPECT * shorter:
        shorter, longer = size, int(size * longer / shorter)
    else:
        longest = MAX_ASPECT * size
        shorter, longer = max(1, round(shorter * longest / longer)), longest
    return (shorter, longer) if width <= height else (longer, shorter)


def write_png(picture: Tensor, path: Path) -> None:
    """Write a picture as an 8-bit PNG file, whole or not at all.

    Args:
        picture: `(3, H, W)` RGB or `(H, W)` grey, in [0, 1].
        path: The file. Its folder is made if it is missing.

    Raises:
        ImportError: If Pillow is not installed.
        OSError: If the file cannot be written; an earlier file stays as it was.
    """
    image = eight_bit_image(picture)
    with written_whole(path) as partial, partial.open("wb") as file:
        image.save(file, format="PNG")


def eight_bit_image(picture: Tensor) -> Any:
    """Return a picture as an image of Pillow, rounded to 8 bits.

    Args:
        picture: `(3, H, W)` RGB or `(H, W)` grey, in [0, 1].

    Raises:
        ImportError: If Pillow is not installed.
    """
    pixels = picture.mul(255).round().to(torch.uint8).cpu()
    mode = "L" if pixels.dim() == 2 else "RGB"
    size = (pixels.shape[-1], pixels.shape[-2])
    if mode == "RGB":
        pixels = pixels.movedim(0, -1)
    return _pillow("Image").frombytes(mode, size, pixels.contiguous().numpy().tobytes())


def _rgb(pillow: Any, picture: Any) -> Any:
    """Return an image of Pillow as 8-bit RGB."""
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
    # Adding 0.5 rounds, since the conversion from float cuts off.
    return picture.point(lambda value: value * factor + 0.5).convert("L")


def _pillow(module: str) -> Any:
    return needed(f"PIL.{module}", "reading and writing images", "pillow")
