"""The image set `evaluation.datasets.shapes` as a source, drawn while it is staged."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.listing import BLOCK_BYTES, Block, Listing, Request, SplitListing
from evaluation.datasets.shape_scenes import BLOCK
from evaluation.datasets.shapes import CLASSES, check_shapes, draw_shapes, labels_of_shapes
from evaluation.datasets.sources.registry import source

__all__ = ["shapes"]

_TRAIN, _TEST, _SIZE = 4000, 1000, 32


@source("shapes", "made from a seed; needs no files", found=lambda _: True, object_masks=True)
def shapes(request: Request) -> Listing:
    """The requested number of images, or 4,000 and 1,000, of 32x32 or `image_size` squared.

    Raises:
        ValueError: images too small to show a shape.
    """
    train, test = request.train_images or _TRAIN, request.test_images or _TEST
    size = request.image_size or _SIZE
    check_shapes(train=train, test=test, size=size, seed=request.seed)
    drawn = [
        SplitListing(labels_of_shapes(0, count), _Drawn(name, size, request.seed), "shapes")
        for name, count in (("train", train), ("test", test))
    ]
    return Listing("shapes", CLASSES, drawn[0], drawn[1], size=(size, size), object_masks=True)


@dataclass(frozen=True)
class _Drawn:
    """Images of a split, drawn on demand."""

    split: str
    size: int
    seed: int

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, ...] | None
    ) -> Generator[Block, None, None]:
        """The images at consecutive `indices`, in blocks."""
        del size
        # Whole blocks of `draw_block`, unless the start lies within one.
        together = max(1, BLOCK_BYTES // (BLOCK * 3 * self.size**2)) * BLOCK
        start, end = (int(indices[0]), int(indices[-1]) + 1) if len(indices) else (0, 0)
        while start < end:
            stop = min(end, start - start % BLOCK + together)
            drawn = draw_shapes(self.split, start, stop, size=self.size, seed=self.seed)
            yield Block(drawn.images, drawn.object_masks)
            start = stop
