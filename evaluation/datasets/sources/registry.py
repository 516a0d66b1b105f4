"""The registry of image sources, and what its entries say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluation.datasets.listing import Listing, Request
from fastsal.registry import Registry

__all__ = ["SOURCES", "Published", "Source", "source"]


@dataclass(frozen=True)
class Published:
    """What the publication of an image set says of it.

    Args:
        classes: number of classes.
        train: training images.
        test: test images; of a set whose test labels are kept secret, those for validation.
        size: height and width of every image, of a set whose files are always the same; None of
            a set whose images differ in size, or of which people keep a part.
    """

    classes: int
    train: int
    test: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """A source of images.

    Args:
        name: what ``--data`` calls it.
        layout: the files it expects below its folder, or where its images come from.
        listing: says what is there, without reading a pixel.
        found: whether its files are there; None for a folder that must exist.
        object_masks: whether its images come with the true object's pixels.
        published: what is known of it where its files are not.
    """

    name: str
    layout: str
    listing: Callable[[Request], Listing]
    found: Callable[[Request], bool] | None = None
    object_masks: bool = False
    published: Published | None = None

    @property
    def takes_folder(self) -> bool:
        """Whether it reads a folder that the argument names, and whose files may change."""
        return self.found is None

    def is_found(self, request: Request) -> bool:
        """Whether the files of a request are there."""
        if self.found is not None:
            return self.found(request)
        return bool(request.argument) and Path(request.argument).is_dir()


SOURCES: Registry[Source] = Registry("image source")


def source(
    name: str,
    layout: str,
    *,
    found: Callable[[Request], bool] | None = None,
    object_masks: bool = False,
    published: Published | None = None,
) -> Callable[[Callable[[Request], Listing]], Callable[[Request], Listing]]:
    """Register the function that lists a source's images; the arguments are those of `Source`."""

    def register(listing: Callable[[Request], Listing]) -> Callable[[Request], Listing]:
        SOURCES.register(name, Source(name, layout, listing, found, object_masks, published))
        return listing

    return register
