"""Listings of images before a pixel is read, and the reading of their pixels in blocks."""

from __future__ import annotations

import os
from array import array
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import SPLITS, DatasetError, Skipped, choose_balanced
from evaluation.storage.hashes import content_hash

__all__ = ["ArrayPixels", "Block", "Listing", "Names", "Pixels", "Request", "SplitListing"]

# Bytes of images in memory at once, whatever the number of images.
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Request:
    """A request for images of a source.

    Args:
        argument: the text after the colon in ``--data name:argument``.
        train_images: most training images, the same number of each class; None for all.
        test_images: likewise of the test split.
        image_size: height and width to resize and crop to; None to leave images as they are. Sets
            that are made take it as the side of an image or a volume, or the length of a signal.
        seed: seed of generated images and of the choice of images.
    """

    argument: str = ""
    train_images: int | None = None
    test_images: int | None = None
    image_size: int | None = None
    seed: int = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """The requested height and width; None to leave images as they are."""
        return None if self.image_size is None else (self.image_size, self.image_size)


@dataclass(frozen=True)
class Block:
    """Consecutive images of a listing.

    Args:
        images: ``(n, H, W, 3)`` uint8, the readable ones; volumes ``(n, D, H, W, C)``, signals
            ``(n, T, C)``.
        object_masks: ``(n, H, W)`` bool, of the axes of the images; None if the true object is not
            known.
        skipped: the unreadable ones: position in this block, and file with the reason.
    """

    images: NDArray[np.uint8]
    object_masks: NDArray[np.bool_] | None = None
    skipped: tuple[tuple[int, Skipped], ...] = ()

    def __len__(self) -> int:
        """Number of listed images in the block, skipped ones included."""
        return len(self.images) + len(self.skipped)


class Pixels(Protocol):
    """Reader of a split's images."""

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, ...] | None
    ) -> Generator[Block, None, None]:
        """The images at `indices`, in that order, in blocks.

        Args:
            indices: ``(n,)`` positions in the split.
            size: height and width of the images before these; None if these are the first.

        Raises:
            DatasetError: an image of another size.
        """


@dataclass(frozen=True)
class SplitListing:
    """The listing of one split: labels, and a reader of the images.

    Args:
        labels: ``(N,)`` int64, the classes of all its images.
        pixels: reader of the images.
        where: place of the images, for messages.
        indices: sorted positions of the chosen images; None for all.
    """

    labels: NDArray[np.int64]
    pixels: Pixels
    where: str
    indices: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels if self.indices is None else self.indices)

    def take(self, wanted: int | None, seed: int) -> SplitListing:
        """A listing of at most `wanted` of the images, the same number of each class."""
        chosen = choose_balanced(self.labels, wanted, seed)
        return replace(self, labels=self.labels[chosen], indices=chosen)

    def only(self, place: int) -> SplitListing:
        """A listing of one image."""
        one = slice(place, place + 1)
        return replace(self, labels=self.labels[one], indices=self._taken()[one])

    def hash(self) -> str:
        """Hash of the chosen images' positions and labels."""
        return content_hash(self.labels, self._taken())

    def blocks(
        self, start: int = 0, size: tuple[int, ...] | None = None
    ) -> Generator[Block, None, None]:
        """The chosen images from the `start`-th on, in blocks."""
        return self.pixels.blocks(self._taken()[start:], size)

    def _taken(self) -> NDArray[np.int64]:
        return np.arange(len(self.labels)) if self.indices is None else self.indices


@dataclass(frozen=True)
class Listing:
    """The listing of an image set: its two splits, not yet read.

    Args:
        name: name in reports.
        classes: names of the classes; a label is an index into it.
        train: training split.
        test: test split.
        size: height and width of every image, of volumes three sides, of signals one; None if they
            are not known before reading.
        object_masks: True if the images come with the true object's pixels.
        channels: of every image.
    """

    name: str
    classes: tuple[str, ...]
    train: SplitListing
    test: SplitListing
    size: tuple[int, ...] | None = None
    object_masks: bool = False
    channels: int = 3

    def __len__(self) -> int:
        """Number of images in both splits."""
        return len(self.train) + len(self.test)

    def take(self, request: Request) -> Listing:
        """The listing of the requested images."""
        return replace(
            self,
            train=self.train.take(request.train_images, request.seed),
            test=self.test.take(request.test_images, request.seed),
        )

    def splits(self) -> tuple[tuple[str, SplitListing], ...]:
        """Both splits with their names."""
        return tuple(zip(SPLITS, (self.train, self.test), strict=True))

    def check_size(self, train: tuple[int, ...] | None, test: tuple[int, ...]) -> None:
        """Refuse a test split whose images differ in size from the training images.

        Args:
            train: height and width of the training images; None while they are not known.
            test: height and width of the test images.

        Raises:
            DatasetError: they differ.
        """
        if train is not None and train != test:
            shown = ", ".join("x".join(map(str, size)) for size in sorted({train, test}))
            raise DatasetError(
                f"training and test images differ in size ({shown}): "
                "give --image-size to resize them"
            )

    def check_read(self, name: str, skipped: Sequence[int]) -> NDArray[np.int64]:
        """The labels of a split without its unreadable images.

        Args:
            name: name of the split.
            skipped: positions of those images.

        Raises:
            DatasetError: a class without a readable image.
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
    """Images in memory, as `Pixels`.

    Args:
        images: ``(N, H, W, 3)`` uint8.
    """

    images: NDArray[np.uint8]

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, ...] | None
    ) -> Generator[Block, None, None]:
        """The images at `indices`, in blocks."""
        del size
        together = max(1, BLOCK_BYTES // max(1, self.images[:1].nbytes))
        for start in range(0, len(indices), together):
            yield Block(self.images[indices[start : start + together]])


class Names(Sequence[str]):
    """A compact list of file names in one buffer: a million strings would be 100 MB.

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
