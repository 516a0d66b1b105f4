"""Places365-Standard as torchvision unpacks it."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.image_files import Transform, centre_crop
from evaluation.datasets.listing import Listing, Names, Request, SplitListing
from evaluation.datasets.sources.files import files_split, split_folder
from evaluation.datasets.sources.registry import Published, source

__all__ = ["places365"]

_CATEGORIES = "categories_places365.txt"
# The list of each split, and the possible folders of its images: small images before large ones.
_TRAIN = (
    "places365_train_standard.txt",
    ("data_256_standard", "data_large_standard", "data_256", "data_large"),
)
_VAL = ("places365_val.txt", ("val_256", "val_large"))


@source(
    "places365",
    "categories_places365.txt, places365_train_standard.txt, places365_val.txt, "
    "data_256_standard/ and val_256/ (or data_large_standard/ and val_large/)",
    published=Published(365, 1_803_460, 36_500),
)
def places365(request: Request) -> Listing:
    """Places365-Standard (Zhou et al. 2017); the test split is ``val``.

    With an image size, the shorter side is resized to ``size * 256 / 224`` and the centre cropped.
    The lists may hold fewer images than the published ones.

    Raises:
        DatasetError: a missing file or folder, or a malformed list.
    """
    root = Path(request.argument)
    numbers = {label: name for name, label in _pairs(root / _CATEGORIES)}
    if sorted(numbers) != list(range(len(numbers))) or len(numbers) < 2:
        raise DatasetError(
            f"{str(root / _CATEGORIES)!r} numbers its classes {sorted(numbers)}: expected at "
            "least two lines such as '/a/airfield 0', numbered from 0 without a gap"
        )
    transform = centre_crop(request.image_size)
    train, val = (
        _split(root, listed, folders, len(numbers), transform) for listed, folders in (_TRAIN, _VAL)
    )
    # '/a/airfield' is filed under its first letter.
    classes = tuple(numbers[label][3:] for label in range(len(numbers)))
    return Listing("places365", classes, train, val, size=request.size)


def _split(
    root: Path, listed: str, folders: tuple[str, ...], classes: int, transform: Transform | None
) -> SplitListing:
    folder = split_folder(root, folders, f"the images of {listed} in it")
    names, labels = Names(), array("q")
    for name, label in _pairs(root / listed):
        if not 0 <= label < classes:
            raise DatasetError(
                f"{str(root / listed)!r} gives {name!r} class {label}: expected 0 to {classes - 1}"
            )
        names.append(f"{folder}/{name.lstrip('/')}")
        labels.append(label)
    return files_split(
        root, names, np.array(labels, dtype=np.int64), transform, where=root / folder
    )


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    """The names and numbers of a list, one pair a line.

    Raises:
        DatasetError: a missing list, or a malformed line.
    """
    if not path.is_file():
        raise DatasetError(
            f"no file {str(path)!r}: expected the lists and folders that "
            "torchvision.datasets.Places365 unpacks; class folders (the 'easy directory "
            "structure') are read by folder:PATH"
        )
    with path.open() as lines:
        for count, line in enumerate(lines, 1):
            words = line.split()
            if len(words) != 2 or not words[1].isdigit():
                raise DatasetError(
                    f"line {count} of {str(path)!r} is {line.strip()!r}: expected a name and a "
                    "number, such as '/a/airfield/00000001.jpg 0'"
                )
            yield words[0], int(words[1])
