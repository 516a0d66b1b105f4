"""Image sets by name: their extent, staged to disk, or in memory if they are small."""

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
    made,
    places365,
    shapes,
    shards,
)
from evaluation.datasets.sources.files import listing_hash
from evaluation.datasets.sources.registry import SOURCES, Source
from evaluation.datasets.staged import same_images, staged_hash
from evaluation.datasets.staging import Progress, stage_listing
from evaluation.storage.hashes import spec_id

__all__ = [
    "SOURCES",
    "Extent",
    "Request",
    "axes_of",
    "channels_of",
    "extent_of",
    "files_hash",
    "has_object_masks",
    "list_images",
    "load_dataset",
    "stage",
    "unchanged",
]

# Images that are tried for a readable one, to find their size.
_TRIED = 16


@dataclass(frozen=True)
class Extent:
    """The extent of an image set: numbers of classes and images, and their size.

    Args:
        name: name in reports.
        classes: number of classes.
        train: number of requested training images.
        test: number of requested test images.
        size: height and width of every image, of volumes three sides, of signals one; None if that
            is not known without its files.
        found: True if its files are there; if not, the numbers are the published ones.
    """

    name: str
    classes: int
    train: int
    test: int
    size: tuple[int, ...] | None
    found: bool


def has_object_masks(data: str) -> bool:
    """True if the images that ``--data`` names come with the true object's pixels.

    >>> has_object_masks("shapes"), has_object_masks("folder:pictures")
    (True, False)
    """
    source = _known(data)
    return source is not None and source.object_masks


def axes_of(data: str) -> int:
    """The number of axes of the set that ``--data`` names: 2 of images, 3 of volumes, 1 of signals.

    >>> axes_of("volumes"), axes_of("signals"), axes_of("folder:pictures")
    (3, 1, 2)
    """
    source = _known(data)
    return 2 if source is None else source.axes


def channels_of(data: str) -> int:
    """The number of channels of the set that ``--data`` names.

    >>> channels_of("volumes"), channels_of("signals"), channels_of("folder:pictures")
    (1, 2, 3)
    """
    source = _known(data)
    return 3 if source is None else source.channels


def _known(data: str) -> Source | None:
    """The source that ``--data`` names, if there is one of this name."""
    return SOURCES.get(data.partition(":")[0])


def list_images(data: str, request: Request) -> Listing:
    """The listing of the requested images of the set that ``--data`` names; reads no pixel.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.

    Raises:
        DatasetError: an unknown name, files that are not there, or not as expected.

    >>> len(list_images("shapes", Request(train_images=1_000_000)).train)
    1000000
    """
    source, request = _find_source(data, request)
    if source.takes_folder and not request.argument:
        raise DatasetError(f"data {data!r} names no folder: expected {source.name}:PATH")
    return source.listing(request).take(request)


def extent_of(data: str, request: Request) -> Extent:
    """The number and size of the requested images, without reading their pixels.

    Args:
        data: ``name`` or ``name:argument``.
        request: which of its images; its `argument` is replaced by what `data` says.

    Returns:
        Counts from the files if they are there, else from the publication of a known set. The size
        is that of the request, of the set, or of the first image.

    Raises:
        DatasetError: an unknown name, or files that are neither there nor published.

    >>> extent_of("imagenet", Request(image_size=224, test_images=1000))
    Extent(name='imagenet', classes=1000, train=1281167, test=1000, size=(224, 224), found=False)
    """
    size: tuple[int, ...] | None
    source, request = _find_source(data, request)
    found, known = source.is_found(request), source.published
    # A set whose images have one size is always the same files: its publication is right.
    if known is not None and (not found or known.size is not None):
        train = min(request.train_images or known.train, known.train)
        test = min(request.test_images or known.test, known.test)
        size = request.size or known.size
        return Extent(source.name, known.classes, train, test, size, found)
    listing = list_images(data, request)
    size = listing.size or _first_size(listing.train)
    return Extent(
        listing.name, len(listing.classes), len(listing.train), len(listing.test), size, found
    )


def load_dataset(data: str, request: Request) -> Dataset:
    """Load the image set that ``--data`` names into memory.

    For small sets; `stage` is for any number of images.

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
    sizes = [split.images.shape[1:-1] for split in (train, test)]
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

    Memory does not grow with the number of images. After a kill, the same call continues.

    Args:
        data: ``name`` or ``name:argument``, ``name`` a key of `SOURCES`.
        request: which of its images; its `argument` is replaced by what `data` says.
        folder: the folder for the arrays.
        progress: called with the numbers of staged and of all images.

    Returns:
        ``data``, the hash of all images and labels; ``files``, that of `files_hash`.

    Raises:
        DatasetError: an unknown name, or images that cannot be used.
        OSError: the disk is full, or the files cannot be reached; what is staged stays.
        evaluation.storage.sealed.Unfit: the folder holds something else than what was staged.
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
    """True if the images that ``--data`` names are still the staged ones, pixel by pixel.

    Args:
        data: as it was given to `stage`.
        request: as it was given to `stage`.
        staged: the images from `evaluation.datasets.dataset.open_staged`.
        progress: called with the numbers of compared and of all images.
    """
    return same_images(list_images(data, request), staged, progress)


def files_hash(data: str) -> str | None:
    """Hash of the names, sizes and times of the files of `data`; None if it names no folder.

    >>> files_hash("shapes") is None
    True
    """
    name, _, argument = data.partition(":")
    takes_folder = name in SOURCES and SOURCES[name].takes_folder
    return listing_hash(Path(argument)) if takes_folder else None


def _find_source(data: str, request: Request) -> tuple[Source, Request]:
    name, _, argument = data.partition(":")
    if name not in SOURCES:
        raise DatasetError(
            f"unknown data {data!r}: expected one of {', '.join(SOURCES)} "
            "(folder takes a path: folder:PATH)"
        )
    source = SOURCES[name]
    only = source.published.size if source.published is not None else None
    if only is not None and request.size not in (None, only):
        raise DatasetError(
            f"--image-size {request.image_size}: {name} is {only[0]}x{only[1]}; use folder:PATH "
            "to resize"
        )
    return source, replace(request, argument=argument)


def _first_size(split: SplitListing) -> tuple[int, ...] | None:
    """Sides of the first image that can be read."""
    for place in range(min(_TRIED, len(split))):
        with closing(split.only(place).blocks()) as blocks:
            images = next(blocks).images
        if len(images):
            return images.shape[1:-1]
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
