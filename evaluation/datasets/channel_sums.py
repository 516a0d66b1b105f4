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
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, images: NDArray[np.uint8]) -> None:
        """Add ``(n, H, W, 3)`` images."""
        if not len(images):
            return
        # One tall picture: Pillow counts three times as fast as NumPy.
        histogram = Image.fromarray(images.reshape(-1, images.shape[2], 3)).histogram()
        self.pixels += images.size // 3
        for channel in range(3):
            counts = histogram[256 * channel : 256 * (channel + 1)]
            self.sums[channel] += sum(value * count for value, count in enumerate(counts))
            self.squares[channel] += sum(value**2 * count for value, count in enumerate(counts))

    def mean(self) -> tuple[float, float, float]:
        """Mean of each channel, in [0, 1]."""
        red, green, blue = (value / self.pixels / 255.0 for value in self.sums)
        return red, green, blue

    def std(self) -> tuple[float, float, float]:
        """Standard deviation of each channel, in [0, 1], at least 0.001, since it is a divisor."""
        variances = (
            Fraction(square * self.pixels - value**2, (255 * self.pixels) ** 2)
            for value, square in zip(self.sums, self.squares, strict=True)
        )
        red, green, blue = (max(float(variance) ** 0.5, 1e-3) for variance in variances)
        return red, green, blue
