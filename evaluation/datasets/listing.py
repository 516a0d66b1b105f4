"""What a source of images says before a pixel is read, and how its pixels are then asked for."""

from __future__ import annotations

import os
from array import array
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import SPLITS, DatasetError, Skipped, choose_balanced
from evaluation.storage.store import content_hash

__all__ = ["ArrayPixels", "Block", "Listing", "Names", "Pixels", "Request", "SplitListing"]

# Bytes of images that are in memory at once: small, so that memory does not grow with their number.
BLOCK_BYTES = 4 * 2**20


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

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width asked for."""
        return None if self.image_size is None else (self.image_size, self.image_size)


@dataclass(frozen=True)
class Block:
    """Some images that follow each other in a listing.

    Args:
        images: ``(n, H, W, 3)`` uint8, those that could be read.
        object_masks: ``(n, H, W)`` bool, or None where the true object is not known.
        skipped: those that could not be read: the place in this block, which file, and why.
    """

    images: NDArray[np.uint8]
    object_masks: NDArray[np.bool_] | None = None
    skipped: tuple[tuple[int, Skipped], ...] = ()

    def __len__(self) -> int:
        """How many images of the listing the block is about."""
        return len(self.images) + len(self.skipped)


class Pixels(Protocol):
    """The images of a split, read when they are asked for."""

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, int] | None
    ) -> Generator[Block, None, None]:
        """The images at `indices`, in that order, a few at a time.

        Args:
            indices: ``(n,)`` places in the split.
            size: height and width that images before these had; None if these are the first.

        Raises:
            DatasetError: an image of another size.
        """


@dataclass(frozen=True)
class SplitListing:
    """A split whose images have not been read.

    Args:
        labels: ``(N,)`` int64, the classes of all its images.
        pixels: reads them.
        where: what messages call the place they are in.
        indices: which of the images are taken, in order; None for all.
    """

    labels: NDArray[np.int64]
    pixels: Pixels
    where: str
    indices: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels if self.indices is None else self.indices)

    def take(self, wanted: int | None, seed: int) -> SplitListing:
        """At most so many of the images, the same number a class."""
        chosen = choose_balanced(self.labels, wanted, seed)
        return replace(self, labels=self.labels[chosen], indices=chosen)

    def only(self, place: int) -> SplitListing:
        """One of the images alone."""
        one = slice(place, place + 1)
        return replace(self, labels=self.labels[one], indices=self._taken()[one])

    def hash(self) -> str:
        """What tells which of the images are taken, with which labels."""
        return content_hash(self.labels, self._taken())

    def blocks(
        self, start: int = 0, size: tuple[int, int] | None = None
    ) -> Generator[Block, None, None]:
        """The images that are taken from the `start`-th on, a few at a time."""
        return self.pixels.blocks(self._taken()[start:], size)

    def _taken(self) -> NDArray[np.int64]:
        return np.arange(len(self.labels)) if self.indices is None else self.indices


@dataclass(frozen=True)
class Listing:
    """An image set whose images have not been read.

    Args:
        name: how reports call it.
        classes: names of the classes; a label is an index into it.
        train: training split.
        test: test split.
        size: height and width of every image, where they are known before one is read.
        object_masks: whether the images come with the true object's pixels.
    """

    name: str
    classes: tuple[str, ...]
    train: SplitListing
    test: SplitListing
    size: tuple[int, int] | None = None
    object_masks: bool = False

    def __len__(self) -> int:
        """Images of both splits."""
        return len(self.train) + len(self.test)

    def take(self, request: Request) -> Listing:
        """The images that a request takes."""
        return replace(
            self,
            train=self.train.take(request.train_images, request.seed),
            test=self.test.take(request.test_images, request.seed),
        )

    def splits(self) -> tuple[tuple[str, SplitListing], ...]:
        """Both splits with their names."""
        return tuple(zip(SPLITS, (self.train, self.test), strict=True))

    def check_size(self, train: tuple[int, int] | None, test: tuple[int, int]) -> None:
        """Refuse a test split whose images are of another size than the training split's.

        Args:
            train: height and width of the training images; None while they are not known.
            test: height and width of the test images.

        Raises:
            DatasetError: they differ.
        """
        if train is not None and train != test:
            shown = ", ".join(f"{height}x{width}" for height, width in sorted({train, test}))
            raise DatasetError(
                f"training and test images differ in size ({shown}): "
                "give --image-size to resize them"
            )

    def check_read(self, name: str, skipped: Sequence[int]) -> NDArray[np.int64]:
        """The labels of a split without the images that could not be read.

        Args:
            name: of the split.
            skipped: places of those images.

        Raises:
            DatasetError: a class has none left.
        """
        split = dict(self.splits())[name]
        labels = np.delete(split.labels, np.asarray(skipped, dtype=np.int64))
        lost = np.setdiff1d(split.labels, labels)
        if len(lost):
            raise DatasetError(
                f"class {', '.join(self.classes[i] for i in lost)} has no readable image in "
                f"{split.where!r}: expected at least one in every class; add images, "
                "or remove the class from both splits"
            )
        return labels


@dataclass(frozen=True)
class ArrayPixels:
    """Images that are in memory already.

    Args:
        images: ``(N, H, W, 3)`` uint8.
    """

    images: NDArray[np.uint8]

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, int] | None
    ) -> Generator[Block, None, None]:
        """The images at `indices`; all are of one size."""
        del size
        together = max(1, BLOCK_BYTES // max(1, self.images[:1].nbytes))
        for start in range(0, len(indices), together):
            yield Block(self.images[indices[start : start + together]])


class Names(Sequence[str]):
    """Many names of files, as one piece of memory: a million strings would be 100 MB.

    >>> names = Names()
    >>> names.append("cat.jpg")
    >>> names.append("dog.jpg")
    >>> len(names), names[1]
    (2, 'dog.jpg')
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("Q", [0])

    def append(self, name: str) -> None:
        """Add a name at the end."""
        self._text += os.fsencode(name)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        return os.fsdecode(bytes(self._text[self._ends[index] : self._ends[index + 1]]))
