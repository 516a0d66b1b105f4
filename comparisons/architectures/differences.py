"""Differences of methods on one network: means over images and seeds, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from comparisons.architectures.measuring import Measured
from comparisons.architectures.networks import ARCHITECTURES
from evaluation.scoring.intervals import CrossedBootstrap, symmetric_interval

__all__ = [
    "CENTRE",
    "MISSING",
    "Difference",
    "MeasureName",
    "Records",
    "difference",
    "less",
    "listed",
    "paired",
    "read_records",
]

# The control that never looks at the image.
CENTRE = "centre"
MISSING = "not measured"


MeasureName = Literal["mass", "ranking"]
Records = Mapping[str, Sequence[Measured]]
_RESAMPLES = 4000


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences over images and seeds, with its 95 % interval.

    Attributes:
        value: The mean.
        low: The interval's lower end.
        high: The interval's upper end.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["above", "below", "not told"]:
        """The sign of the difference, if the interval tells it."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "not told"

    def __str__(self) -> str:
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def read_records(path: Path) -> dict[str, list[Measured]]:
    """Return the measurements in a file of JSON lines, by network in the order of the table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    every = [Measured.read(line) for line in lines]
    found = {name: [one for one in every if one.network == name] for name in ARCHITECTURES}
    return {name: several for name, several in found.items() if several}


def difference(
    records: Sequence[Measured], first: str, second: str, measure: MeasureName
) -> Difference:
    """Return a method's mean less another's, over the images and the seeds of one network.

    The interval is that of `CrossedBootstrap`; of one seed it is Student's over the images, and
    says nothing of other trainings.

    Args:
        records: Of one network, one for each seed.
        first: A method.
        second: The method that is taken off.
        measure: "mass" or "ranking".
    """
    values = np.asarray(
        [
            np.subtract(getattr(one, measure)[first], getattr(one, measure)[second])
            for one in records
        ]
    )
    return paired(values, [one.seed for one in records])


def paired(values: np.ndarray[Any, Any], seeds: Sequence[int]) -> Difference:
    """Return the mean of differences `(seeds, images)` with its interval."""
    mean = float(values.mean())
    if len(seeds) == 1:
        half = float(stats.sem(values[0]) * stats.t.ppf(0.975, values.shape[1] - 1))
        return Difference(mean, mean - half, mean + half)
    bootstrap = CrossedBootstrap(values.shape[1], resamples=_RESAMPLES)
    low, high = symmetric_interval(mean, bootstrap.deviations(values[None], list(seeds))[0])
    return Difference(mean, low, high)


def less(
    records: Sequence[Measured],
    method: str,
    measure: MeasureName,
    other: str = CENTRE,
    missing: str = MISSING,
) -> str:
    """Return a method's difference to another in words, `missing` if the network has none."""
    there = method in records[0].ranking
    return str(difference(records, method, other, measure)) if there else missing


def listed(names: Sequence[str]) -> str:
    """Return names as a list in words.

    >>> listed([]), listed(["ViT"]), listed(["ViT", "Swin", "VGG"])
    ('none', 'ViT', 'ViT, Swin and VGG')
    """
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"
