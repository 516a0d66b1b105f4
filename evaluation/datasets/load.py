"""Image sets by name: how much is there, staged to disk, or in memory where they are few."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from evaluation.datasets.channel_sums import ChannelSums
from evaluation.datasets.dataset import Dataset, DatasetError, Skipped, Split
from evaluation.datasets.listing import Listing, Request, SplitListing

# Importing these registers their sources, in this order.
from evaluation.datasets.sources import (  # noqa: F401
    cifar,
    class_folders,
    cowc,
    imagenet,
    places365,
    shapes,
    shards,
)
from evaluation.datasets.sources.files import listing_hash
from evaluation.datasets.sources.registry import SOURCES, Source
from evaluation.datasets.staging import Progress, same_images, stage_listing, staged_hash
from evaluation.storage.store import spec_id

__all__ = [
    "SOURCES",
    "Extent",
    "Request",
    "extent_of",
    "files_hash",
    "has_object_masks",
    "list_images",
    "load_dataset",
    "stage",
    "unchanged",
]

# How many images are tried for one that can be read, to see how large they are.
_TRIED = 16


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


def has_object_masks(data: str) -> bool:
    """Whether the images that ``--data`` names come with the true object's pixels.

    >>> has_object_masks("shapes"), has_object_masks("folder:pictures")
    (True, False)
    """
    name = data.partition(":")[0]
    return name in SOURCES and SOURCES[name].object_masks


def list_images(data: str, request: Request) -> Listing:
    """What a request takes of the image set that ``--data`` names; no pixel is read.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.

    Raises:
        DatasetError: an unknown name, files that are not there, or not as expected.

    >>> len(list_images("shapes", Request(train_images=1_000_000)).train)
    1000000
    """
    entry, request = _looked_up(data, request)
    if entry.takes_folder and not request.argument:
        raise DatasetError(f"data {data!r} names no folder: expected {entry.name}:PATH")
    return entry.listing(request).take(request)


def extent_of(data: str, request: Request) -> Extent:
    """How many images of which size a request takes, without reading their pixels.

    Args:
        data: ``name`` or ``name:argument``.
        request: which of its images; its `argument` is replaced by what `data` says.

    Returns:
        Counts from the files where they are there, from the publication of a known set where they
        are not. The size is that of the request, of the set, or of the first image.

    Raises:
        DatasetError: an unknown name, or files that are neither there nor published.

    >>> extent_of("imagenet", Request(image_size=224, test_images=1000))
    Extent(name='imagenet', classes=1000, train=1281167, test=1000, size=(224, 224), found=False)
    """
    entry, request = _looked_up(data, request)
    found, known = entry.is_found(request), entry.published
    # A set of one size is always the same files: its publication is right.
    if known is not None and (not found or known.size is not None):
        train = min(request.train_images or known.train, known.train)
        test = min(request.test_images or known.test, known.test)
        size = request.size or known.size
        return Extent(entry.name, known.classes, train, test, size, found)
    listing = list_images(data, request)
    size = listing.size or _first_size(listing.train)
    return Extent(
        listing.name, len(listing.classes), len(listing.train), len(listing.test), size, found
    )


def load_dataset(data: str, request: Request) -> Dataset:
    """Read or make the image set that ``--data`` names, in memory.

    For images that are few; `stage` is for any number.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.

    Raises:
        DatasetError: an unknown name, or images that cannot be used.

    >>> load_dataset("shapes", Request(train_images=16, test_images=8)).train.images.shape
    (16, 32, 32, 3)
    """
    listing = list_images(data, request)
    sums = ChannelSums()
    train, skipped = _in_memory(listing, "train", sums)
    test, skipped_too = _in_memory(listing, "test", ChannelSums())
    sizes = [(split.images.shape[1], split.images.shape[2]) for split in (train, test)]
    listing.check_size(*sizes)
    return Dataset(
        listing.name,
        listing.classes,
        train,
        test,
        mean=sums.mean(),
        std=sums.std(),
        skipped=skipped + skipped_too,
    )


def stage(
    data: str, request: Request, folder: Path, progress: Progress | None = None
) -> dict[str, str]:
    """Write the image set that ``--data`` names to disk, for `open_staged`.

    Memory does not grow with the number of images. After a kill it goes on where it was.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.
        folder: where the arrays go.
        progress: told how many images are done, and how many there are.

    Returns:
        ``data``, the hash of all images and labels; ``files``, what `files_hash` says.

    Raises:
        DatasetError: an unknown name, or images that cannot be used.
        OSError: the disk is full, or the files cannot be reached; what is staged stays.
    """
    files = files_hash(data)
    of = spec_id({"data": data, "request": asdict(request), "files": files})
    found = staged_hash(folder, of)
    if found is None:
        found = stage_listing(list_images(data, request), folder, of=of, progress=progress)
    return {"data": found} | ({} if files is None else {"files": files})


def unchanged(
    data: str, request: Request, staged: Dataset, progress: Progress | None = None
) -> bool:
    """Whether the images that ``--data`` names are still those that were staged, pixel by pixel.

    Args:
        data: as it was given to `stage`.
        request: as it was given to `stage`.
        staged: what `evaluation.datasets.dataset.open_staged` opens.
        progress: told how many images are compared, and how many there are.
    """
    return same_images(list_images(data, request), staged, progress)


def files_hash(data: str) -> str | None:
    """What tells that the files `data` names changed, without reading them; None for no folder.

    >>> files_hash("shapes") is None
    True
    """
    name, _, argument = data.partition(":")
    takes_folder = name in SOURCES and SOURCES[name].takes_folder
    return listing_hash(Path(argument)) if takes_folder else None


def _looked_up(data: str, request: Request) -> tuple[Source, Request]:
    name, _, argument = data.partition(":")
    if name not in SOURCES:
        raise DatasetError(
            f"unknown data {data!r}: expected one of {', '.join(SOURCES)} "
            "(folder takes a path: folder:PATH)"
        )
    entry = SOURCES[name]
    only = entry.published.size if entry.published is not None else None
    if only is not None and request.size not in (None, only):
        raise DatasetError(
            f"--image-size {request.image_size}: {name} is {only[0]}x{only[1]}; use folder:PATH "
            "to resize"
        )
    return entry, replace(request, argument=argument)


def _first_size(split: SplitListing) -> tuple[int, int] | None:
    """Height and width of the first image that can be read."""
    for place in range(min(_TRIED, len(split))):
        with closing(split.only(place).blocks()) as blocks:
            images = next(blocks).images
        if len(images):
            return images.shape[1], images.shape[2]
    return None


def _in_memory(listing: Listing, name: str, sums: ChannelSums) -> tuple[Split, tuple[Skipped, ...]]:
    """All images of a split, counted in `sums`, and the files that could not be read."""
    split = dict(listing.splits())[name]
    blocks, skipped, listed = [], [], 0
    for block in split.blocks():
        sums.add(block.images)
        blocks.append(block)
        skipped += [(listed + place, entry) for place, entry in block.skipped]
        listed += len(block)
    labels = listing.check_read(name, [place for place, _ in skipped])
    masks = [block.object_masks for block in blocks if block.object_masks is not None]
    return (
        Split(
            np.concatenate([block.images for block in blocks if len(block.images)]),
            labels,
            np.concatenate(masks) if masks else None,
        ),
        tuple(entry for _, entry in skipped),
    )
