"""Scores of maps image by image, and their differences paired by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.scores import t_interval
from evaluation.scoring.significance import PairedTest, paired_tests
from evaluation.storage.records import CellResult
from reports.records.estimates import Estimate
from reports.records.run import Run
from reports.verdicts import Verdict, verdict_of

__all__ = [
    "MAIN_SCORES",
    "REFERENCES",
    "SCORES",
    "Difference",
    "OfImages",
    "Score",
    "Scored",
    "scored",
]

# Methods that every other one is held against, those that a run has: ours, then two controls.
REFERENCES = ("smoe-linear", "centre", "random")


@dataclass(frozen=True)
class Score:
    """A score of an image's map, higher for a better map.

    Args:
        key: name in code.
        title: name in tables and sentences.
        plus: metric that counts for the map; None for none.
        minus: metric that counts against it; None for none.

    >>> SCORES[0].title
    'insertion less deletion'
    """

    key: str
    title: str
    plus: str | None
    minus: str | None

    def of(self, entry: Mapping[str, float]) -> float | None:
        """The score of one image from its metrics; None if one was not measured."""
        total = 0.0
        for metric, sign in ((self.plus, 1.0), (self.minus, -1.0)):
            if metric is not None and metric not in entry:
                return None
            total += 0.0 if metric is None else sign * float(entry[metric])
        return total


# Each family of a score's tests is corrected by itself.
SCORES = (
    Score("area", "insertion less deletion", "insertion_area", "deletion_area"),
    Score(
        "road", "ROAD, least less most salient first", "road_least_accuracy", "road_most_accuracy"
    ),
    Score("insertion", "insertion", "insertion_area", None),
    Score("deletion", "deletion, with its sign turned", None, "deletion_area"),
    Score(
        "filled-area",
        "insertion less deletion, noisy linear",
        "insertion_area_noisy_linear",
        "deletion_area_noisy_linear",
    ),
    Score("average-drop", "average drop, with its sign turned", None, "average_drop"),
    Score("confidence-increase", "increase in confidence", "confidence_increase", None),
)
# The keys of those that stand for the others in tables and sentences of pages.
MAIN_SCORES = ("area", "road")


@dataclass(frozen=True)
class OfImages:
    """A method's score of each image.

    Args:
        images: numbers of the test images, rising.
        values: the score of each; the mean over seeds, where several networks were explained.
        cells: that measured them.
    """

    images: NDArray[np.int64]
    values: NDArray[np.float64]
    cells: tuple[str, ...]

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval over images."""
        interval = t_interval(self.tolist())
        return Estimate(float(self.values.mean()), interval, (None,), self.cells)

    def tolist(self) -> list[float]:
        """The score of each image."""
        scores: list[float] = self.values.tolist()
        return scores

    def less(self, other: OfImages) -> OfImages:
        """The differences from another method's scores of the images that both have."""
        images, mine, its = np.intersect1d(self.images, other.images, return_indices=True)
        values = np.asarray(self.values[mine] - other.values[its])
        return OfImages(images, values, (*self.cells, *other.cells))


@dataclass(frozen=True)
class Difference:
    """A method's score less that of a reference, paired by image.

    Args:
        method: the method.
        reference: the reference.
        estimate: the mean difference with its interval over images.
        test: paired t test, corrected with all others of the score; None without any spread.
    """

    method: str
    reference: str
    estimate: Estimate
    test: PairedTest | None

    @property
    def told(self) -> bool:
        """True if it is told from 0: its p after Holm's correction is below 0.05."""
        return self.test is not None and self.test.adjusted < _LEVEL

    @property
    def verdict(self) -> Verdict:
        """The verdict on the method, beside the reference."""
        return verdict_of(self.estimate.mean, self.told)

    @property
    def turned(self) -> Difference:
        """The same difference, as the reference's from the method."""
        own = self.estimate
        ends = None if own.interval is None else (-own.interval[1], -own.interval[0])
        estimate = replace(own, mean=-own.mean, interval=ends)
        return Difference(self.reference, self.method, estimate, self.test)


_LEVEL = 0.05


@dataclass(frozen=True)
class Scored:
    """One score of every method, and its differences from the references.

    Args:
        score: the score.
        methods: by name, the best first.
        differences: by reference, then by method, in the order of the methods.
    """

    score: Score
    methods: Mapping[str, OfImages]
    differences: Mapping[str, Mapping[str, Difference]]

    def difference(self, method: str, reference: str) -> Difference | None:
        """A method's difference from a reference; None for the reference itself.

        Two references are compared once, as the later one's, and turned round for the other.

        Args:
            method: name of a method with the score.
            reference: name of a reference with the score.
        """
        own = self.differences[reference].get(method)
        if own is not None or method == reference:
            return own
        return self.differences[method][reference].turned


def scored(run: Run, references: Sequence[str] = REFERENCES) -> list[Scored]:
    """Every score that a run has of two methods or more.

    Args:
        run: the run.
        references: names of methods; those that the run lacks are left out.
    """
    cells = run.cells("measure")
    found = ((score, _of_methods(score, cells)) for score in SCORES)
    return [_tested(score, by, references) for score, by in found if len(by) > 1]


def _of_methods(score: Score, cells: Iterable[CellResult]) -> dict[str, OfImages]:
    """The scores of each method's images that every one of its seeds has; the best method first."""
    by_seed: dict[str, dict[int | None, tuple[str, dict[int, float]]]] = {}
    for cell in cells:
        values = {
            int(entry["image"]): value
            for entry in cell.history
            if (value := score.of(entry)) is not None
        }
        if values:
            # A cell of other options measured the same again: the last one counts.
            seeds = by_seed.setdefault(str(cell.spec["method"]), {})
            seeds[cell.spec.get("seed")] = cell.id, values
    methods = {name: _joined(list(seeds.values())) for name, seeds in by_seed.items()}
    ranked = sorted(methods, key=lambda name: -float(methods[name].values.mean()))
    return {name: methods[name] for name in ranked}


def _joined(seeds: Sequence[tuple[str, Mapping[int, float]]]) -> OfImages:
    images = sorted(set.intersection(*(set(values) for _, values in seeds)))
    means = np.mean([[values[image] for image in images] for _, values in seeds], axis=0)
    return OfImages(np.asarray(images), np.asarray(means), tuple(cell for cell, _ in seeds))


def _tested(score: Score, methods: dict[str, OfImages], references: Sequence[str]) -> Scored:
    known = [name for name in references if name in methods]
    pairs = [
        (name, reference)
        for place, reference in enumerate(known)
        for name in methods
        # Two references are compared once, as the later one's.
        if name not in known[place:]
    ]
    found = [methods[name].less(methods[reference]) for name, reference in pairs]
    tests = paired_tests([each.tolist() for each in found])
    differences: dict[str, dict[str, Difference]] = {reference: {} for reference in known}
    for (name, reference), each, test in zip(pairs, found, tests, strict=True):
        differences[reference][name] = Difference(name, reference, each.estimate, test)
    return Scored(score, methods, differences)
