"""The registry of image sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.datasets.listing import Listing, Request
from fastsal.registry import Registry

__all__ = ["SOURCES", "Published", "Source", "source"]


@dataclass(frozen=True)
class Published:
    """The published numbers of an image set.

    Args:
        classes: number of classes.
        train: training images.
        test: test images; the validation images if the test labels are secret.
        size: height and width of every image of a set whose files are always the same; None for a
            set whose images differ in size, or of which people keep a part.
    """

    classes: int
    train: int
    test: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """A source of images.

    Args:
        name: name in ``--data``.
        layout: the expected files below its folder, or the origin of its images.
        listing: lists the images without reading a pixel.
        found: True if its files are there; None for a folder that must exist.
        object_masks: True if its images come with the true object's pixels.
        published: the published numbers, for when the files are missing.
        tar: True if its folder may be a tar file.
        axes: number of axes of a sample: 2 of images, 3 of volumes, 1 of signals.
        channels: of a sample.
    """

    name: str
    layout: str
    listing: Callable[[Request], Listing]
    found: Callable[[Request], bool] | None = None
    object_masks: bool = False
    published: Published | None = None
    tar: bool = False
    axes: int = 2
    channels: int = 3

    @property
    def takes_folder(self) -> bool:
        """True if the source reads a folder that the argument names, whose files may change."""
        return self.found is None

    def is_found(self, request: Request) -> bool:
        """True if the files of a request are there."""
        if self.found is not None:
            return self.found(request)
        path = Path(request.argument)
        return bool(request.argument) and (path.is_dir() or (self.tar and path.is_file()))


SOURCES: Registry[Source] = Registry("image source")


def source(
    name: str,
    layout: str,
    *,
    found: Callable[[Request], bool] | None = None,
    object_masks: bool = False,
    published: Published | None = None,
    tar: bool = False,
    axes: int = 2,
    channels: int = 3,
) -> Callable[[Callable[[Request], Listing]], Callable[[Request], Listing]]:
    """Register a function that lists a source's images, with the arguments of `Source`."""

    def register(listing: Callable[[Request], Listing]) -> Callable[[Request], Listing]:
        SOURCES.register(
            name,
            Source(name, layout, listing, found, object_masks, published, tar, axes, channels),
        )
        return listing

    return register
