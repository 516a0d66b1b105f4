"""Channel mean and standard deviation of an image set, from exact sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ChannelSums"]


@dataclass
class ChannelSums:
    """Whole-number sums over the pixels of each channel, exact in any order.

    The first images that are added say how many channels there are.

    Args:
        pixels: number of pixels.
        sums: sum of the values, by channel.
        squares: sum of their squares, by channel.

    >>> sums = ChannelSums()
    >>> sums.add(np.array([[[[0, 51, 255], [255, 51, 255]]]], dtype=np.uint8))
    >>> sums.mean(), sums.std()
    ((0.5, 0.2, 1.0), (0.5, 0.001, 0.001))
    """

    pixels: int = 0
    sums: list[int] = field(default_factory=list)
    squares: list[int] = field(default_factory=list)

    def add(self, images: NDArray[np.uint8]) -> None:
        """Add images ``(n, H, W, 3)``, volumes ``(n, D, H, W, C)`` or signals ``(n, T, C)``."""
        if not len(images):
            return
        channels = images.shape[-1]
        if not self.sums:
            self.sums, self.squares = [0] * channels, [0] * channels
        self.pixels += images.size // channels
        for channel, counts in enumerate(_histograms(images)):
            self.sums[channel] += sum(value * count for value, count in enumerate(counts))
            self.squares[channel] += sum(value**2 * count for value, count in enumerate(counts))

    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, in [0, 1]."""
        return tuple(value / self.pixels / 255.0 for value in self.sums)

    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, in [0, 1], at least 0.001, since it is a divisor."""
        variances = (
            Fraction(square * self.pixels - value**2, (255 * self.pixels) ** 2)
            for value, square in zip(self.sums, self.squares, strict=True)
        )
        return tuple(max(float(variance) ** 0.5, 1e-3) for variance in variances)


def _histograms(images: NDArray[np.uint8]) -> list[list[int]]:
    """The number of pixels of each channel that have each of the 256 values."""
    channels = images.shape[-1]
    if channels == 3:
        # One tall picture: Pillow counts three times as fast as NumPy.
        counts = Image.fromarray(images.reshape(-1, images.shape[-2], 3)).histogram()
        return [counts[start : start + 256] for start in range(0, 768, 256)]
    flat = images.reshape(-1, channels)
    return [np.bincount(flat[:, channel], minlength=256).tolist() for channel in range(channels)]
