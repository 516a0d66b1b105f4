"""The pixel coordinates of a tensor's rows and columns, moved by hand through operations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Axis:
    """Coordinates along one of a tensor's two axes; pixel i of the image lies at i + 0.5.

    `along` is 0 if they are rows of the image, 1 if columns; `step` leads from one to the next.
    """

    along: int
    at: np.ndarray
    step: float

    def sampled(self, index: np.ndarray, factor: float) -> Axis:
        """At fractional indices, `factor` of them apart; beyond the ends the steps go on."""
        inner = np.interp(index, np.arange(len(self.at)), self.at)
        beyond = np.minimum(index, 0) + np.maximum(index - (len(self.at) - 1), 0)
        return replace(self, at=inner + beyond * self.step, step=self.step * factor)

    def windows(self, count: int, kernel: int, stride: int, before: int, dilation: int = 1) -> Axis:
        """At the centres of `count` windows, the first of which starts `before` the first index."""
        return self.sampled(
            np.arange(count) * stride - before + dilation * (kernel - 1) / 2, stride
        )

    def resized(self, count: int) -> Axis:
        factor = len(self.at) / count
        return self.sampled((np.arange(count) + 0.5) * factor - 0.5, factor)

    def cut(self, part: slice) -> Axis:
        return replace(self, at=self.at[part], step=self.step * (part.step or 1))

    def padded(self, before: int, after: int) -> Axis:
        return self.sampled(np.arange(-before, len(self.at) + after), 1)

    def flipped(self) -> Axis:
        return replace(self, at=self.at[::-1], step=-self.step)

    @property
    def extent(self) -> tuple[float, float]:
        half = abs(self.step) / 2
        return float(self.at.min()) - half, float(self.at.max()) + half


@dataclass(frozen=True)
class Grid:
    """The coordinates of a tensor's rows and columns."""

    rows: Axis
    columns: Axis

    @classmethod
    def of_image(cls, height: int, width: int) -> Grid:
        return cls(Axis(0, np.arange(height) + 0.5, 1.0), Axis(1, np.arange(width) + 0.5, 1.0))

    @property
    def transposed(self) -> bool:
        return self.rows.along == 1

    def swapped(self) -> Grid:
        return Grid(self.columns, self.rows)

    def upright(self) -> Grid:
        """With the image's rows as rows."""
        return self.swapped() if self.transposed else self

    @property
    def steps(self) -> tuple[float, float]:
        """Pixels from one location to the next, down and across the image."""
        upright = self.upright()
        return abs(upright.rows.step), abs(upright.columns.step)

    def extents(self, size: tuple[int, int]) -> list[tuple[float, float]]:
        """What it covers of an image, rows and columns."""
        upright = self.upright()
        return [
            (max(0.0, axis.extent[0]), min(float(length), axis.extent[1]))
            for axis, length in zip((upright.rows, upright.columns), size, strict=True)
        ]
