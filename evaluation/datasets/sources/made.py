"""The sets `volumes` and `signals` as sources, their samples drawn while they are staged."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.datasets.dataset import DatasetError
from evaluation.datasets.listing import BLOCK_BYTES, Block, Listing, Request, SplitListing
from evaluation.datasets.made.scenes import checked_counts
from evaluation.datasets.made.signals import CHANNELS, draw_signal
from evaluation.datasets.made.signals import CLASSES as WAVEFORMS
from evaluation.datasets.made.signals import LEAST_SIZE as SHORTEST
from evaluation.datasets.made.volumes import CLASSES as SOLIDS
from evaluation.datasets.made.volumes import LEAST_SIZE as SMALLEST
from evaluation.datasets.made.volumes import draw_volume
from evaluation.datasets.sources.registry import source

__all__ = ["signals", "volumes"]

_TRAIN, _TEST = 2000, 500
_SIDE, _LENGTH = 24, 256
_LAYOUT = "made from a seed; needs no files"

# From a split's name and a sample's number to the sample, channels last, and its object's places.
_Draw = Callable[[str, int], tuple[NDArray[np.uint8], NDArray[np.bool_]]]


@source("volumes", _LAYOUT, found=lambda _: True, object_masks=True, axes=3, channels=1)
def volumes(request: Request) -> Listing:
    """The requested number of volumes, or 2,000 and 500, of 24 voxels a side or `image_size`.

    Raises:
        DatasetError: volumes too small to hold a solid.
    """
    side = request.image_size or _SIDE

    def draw(split: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        volume, mask = draw_volume(split, index, size=side, seed=request.seed)
        return volume[..., None], mask

    return _listing("volumes", request, draw, SOLIDS, (side,) * 3, 1, SMALLEST)


@source("signals", _LAYOUT, found=lambda _: True, object_masks=True, axes=1, channels=CHANNELS)
def signals(request: Request) -> Listing:
    """The requested number of signals, or 2,000 and 500, of 256 samples or `image_size`.

    Raises:
        DatasetError: signals too short to hold an event.
    """
    length = request.image_size or _LENGTH

    def draw(split: str, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return draw_signal(split, index, size=length, seed=request.seed)

    return _listing("signals", request, draw, WAVEFORMS, (length,), CHANNELS, SHORTEST)


def _listing(
    name: str,
    request: Request,
    draw: _Draw,
    classes: Sequence[str],
    size: tuple[int, ...],
    channels: int,
    least_size: int,
) -> Listing:
    train, test = request.train_images or _TRAIN, request.test_images or _TEST
    if size[0] < least_size:
        raise DatasetError(
            f"--image-size {size[0]}: {name} are made from {least_size} up; leave it out for "
            f"{_SIDE if len(size) == 3 else _LENGTH}"
        )
    checked_counts(name, least_size, train=train, test=test, size=size[0], seed=request.seed)
    made = [
        SplitListing(
            np.arange(count, dtype=np.int64) % len(classes),
            _Made(draw, split, (*size, channels)),
            name,
        )
        for split, count in (("train", train), ("test", test))
    ]
    return Listing(name, tuple(classes), made[0], made[1], size, True, channels)


@dataclass(frozen=True)
class _Made:
    """Samples of a split, made on demand."""

    draw: _Draw
    split: str
    shape: tuple[int, ...]

    def blocks(
        self, indices: NDArray[np.int64], size: tuple[int, ...] | None
    ) -> Generator[Block, None, None]:
        """The samples at `indices`, in blocks."""
        del size
        together = max(1, BLOCK_BYTES // int(np.prod(self.shape)))
        for start in range(0, len(indices), together):
            chosen = indices[start : start + together].tolist()
            samples, masks = zip(*(self.draw(self.split, index) for index in chosen), strict=True)
            yield Block(np.stack(samples), np.stack(masks))
