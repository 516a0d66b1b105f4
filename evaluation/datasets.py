"""Image sets by name: a source is one decorated function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.image_folder import choose_balanced, listing_hash, read_image_folder
from evaluation.images import Dataset, DatasetError, Split
from evaluation.shapes import CLASSES as SHAPES_CLASSES
from evaluation.shapes import make_shapes

__all__ = [
    "SOURCES",
    "Extent",
    "Request",
    "Source",
    "extent_of",
    "files_hash",
    "has_object_masks",
    "load_dataset",
    "source",
]


@dataclass(frozen=True)
class Request:
    """Which images of a source to take.

    Args:
        argument: what follows the colon in ``--data name:argument``.
        train_images: how many training images at most, the same number a class; None for all.
        test_images: likewise of the test split.
        image_size: height and width to resize and crop to; None to take images as they are.
        seed: seed of generated images, and of which images are taken.
    """

    argument: str = ""
    train_images: int | None = None
    test_images: int | None = None
    image_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Extent:
    """How much an image set is, without its pixels.

    Args:
        name: how reports call it.
        classes: number of classes.
        train: training images that a request takes.
        test: test images that a request takes.
        size: height and width of every image; None where that is not known without its files.
        found: whether its files are there; if not, the numbers are the published ones.
    """

    name: str
    classes: int
    train: int
    test: int
    size: tuple[int, int] | None
    found: bool


class Source(Protocol):
    """Reads or makes an image set; mean and standard deviation are filled in afterwards."""

    def __call__(self, request: Request) -> Dataset:
        """The images asked for."""


SOURCES: dict[str, Source] = {}
# Classes, training and test images, height and width where they are all the same.
_PUBLISHED: dict[str, tuple[int, int, int, tuple[int, int] | None]] = {
    "imagenet": (1000, 1_281_167, 50_000, None),
    "places365": (365, 1_803_460, 36_500, None),
    "cifar10": (10, 50_000, 10_000, (32, 32)),
    "cifar100": (100, 50_000, 10_000, (32, 32)),
}
_WITH_OBJECT_MASKS: set[str] = set()


def source(name: str, *, object_masks: bool = False) -> Callable[[Source], Source]:
    """Register a source of images under the name that ``--data`` takes.

    Args:
        name: the name.
        object_masks: whether its images come with the true object's pixels.
    """

    def register(function: Source) -> Source:
        SOURCES[name] = function
        if object_masks:
            _WITH_OBJECT_MASKS.add(name)
        return function

    return register


def has_object_masks(data: str) -> bool:
    """Whether the images that ``--data`` names come with the true object's pixels.

    >>> has_object_masks("shapes"), has_object_masks("folder:pictures")
    (True, False)
    """
    return data.partition(":")[0] in _WITH_OBJECT_MASKS


def load_dataset(data: str, request: Request) -> Dataset:
    """Read or make the image set that ``--data`` names.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.

    Raises:
        DatasetError: an unknown name, or images that cannot be used.

    >>> load_dataset("shapes", Request(train_images=16, test_images=8)).train.images.shape
    (16, 32, 32, 3)
    """
    name, _, argument = data.partition(":")
    if name not in SOURCES:
        raise DatasetError(
            f"unknown data {data!r}: expected one of {', '.join(SOURCES)} "
            "(folder takes a path: folder:PATH)"
        )
    dataset = SOURCES[name](replace(request, argument=argument))
    pixels = dataset.train.images.reshape(-1, 3)
    mean = pixels.mean(0, dtype=np.float64) / 255.0
    # std in blocks: one float64 copy of all the pixels would be eight times the images.
    square = sum(
        np.square(block / 255.0 - mean).sum(0)
        for block in np.array_split(pixels, max(1, len(pixels) // 1_000_000))
    )
    std = np.maximum(np.sqrt(square / len(pixels)), 1e-3)
    return replace(dataset, mean=_three(mean), std=_three(std))


def extent_of(data: str, request: Request) -> Extent:
    """How many images of which size a request takes, without reading their pixels.

    Args:
        data: ``name`` or ``name:argument``.
        request: which of its images; its `argument` is replaced by what `data` says.

    Returns:
        Counts from the files where they are there, from the publication of a known set where they
        are not.

    Raises:
        DatasetError: an unknown name, or files that are neither there nor published.

    >>> extent_of("imagenet", Request(image_size=224, test_images=1000))
    Extent(name='imagenet', classes=1000, train=1281167, test=1000, size=(224, 224), found=False)
    """
    name, _, argument = data.partition(":")
    request = replace(request, argument=argument)
    size = None if request.image_size is None else (request.image_size, request.image_size)
    if name == "shapes":
        train, test = request.train_images or 4000, request.test_images or 1000
        return Extent("shapes", len(SHAPES_CLASSES), train, test, size or (32, 32), True)
    if name in _PUBLISHED:
        classes, train, test, native = _PUBLISHED[name]
        train, test = _least(request.train_images, train), _least(request.test_images, test)
        return Extent(name, classes, train, test, size or native, found=False)
    dataset = load_dataset(data, request)
    train, test = len(dataset.train.labels), len(dataset.test.labels)
    return Extent(dataset.name, len(dataset.classes), train, test, dataset.size, found=True)


def _least(wanted: int | None, there: int) -> int:
    return there if wanted is None else min(wanted, there)


def files_hash(data: str) -> str | None:
    """What tells that the files `data` names changed, without reading them; None for no folder.

    >>> files_hash("shapes") is None
    True
    """
    name, _, argument = data.partition(":")
    return listing_hash(Path(argument)) if name == "folder" else None


@source("shapes", object_masks=True)
def _shapes(request: Request) -> Dataset:
    train, test = make_shapes(
        train=request.train_images or 4000,
        test=request.test_images or 1000,
        size=request.image_size or 32,
        seed=request.seed,
    )
    return Dataset(
        "shapes",
        SHAPES_CLASSES,
        Split(train.images, train.labels, train.object_masks),
        Split(test.images, test.labels, test.object_masks),
    )


@source("cifar10")
def _cifar10(request: Request) -> Dataset:
    from torchvision.datasets import CIFAR10

    root = Path(request.argument or "runs/data/cifar10")
    try:
        sets = [CIFAR10(str(root), train=train, download=True) for train in (True, False)]
    except Exception as error:
        raise DatasetError(
            f"CIFAR-10 could not be had in {str(root)!r} ({error}): torchvision downloads it "
            "once; where there is no network, put the images in folders and use folder:PATH"
        ) from error
    if request.image_size not in (None, 32):
        raise DatasetError(
            f"--image-size {request.image_size}: cifar10 is 32x32; use folder:PATH to resize"
        )

    def split(images: CIFAR10, wanted: int | None) -> Split:
        labels = np.asarray(images.targets, dtype=np.int64)
        chosen = choose_balanced(labels, wanted, request.seed)
        return Split(np.asarray(images.data)[chosen], labels[chosen])

    train, test = split(sets[0], request.train_images), split(sets[1], request.test_images)
    return Dataset("cifar10", tuple(sets[0].classes), train, test)


@source("folder")
def _folder(request: Request) -> Dataset:
    root = Path(request.argument)
    classes, splits, skipped = read_image_folder(
        root,
        train=request.train_images,
        test=request.test_images,
        size=request.image_size,
        seed=request.seed,
    )
    name = root.resolve().name
    return Dataset(name, classes, splits["train"], splits["test"], skipped=skipped)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
