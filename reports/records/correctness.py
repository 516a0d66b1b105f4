"""Correctness of each network on each test image, and intervals from resampling the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluation.scoring.contributions import area_contributions, information_contributions
from evaluation.scoring.intervals import CrossedBootstrap, symmetric_interval
from evaluation.storage.records import unpack_bits
from reports.records.estimates import Estimate
from reports.records.run import Run

__all__ = ["Contributions", "Correctness", "read_correctness", "resampled"]

Contributions = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Correctness:
    """Correct and wrong predictions of every network that was trained on masked images.

    Args:
        images: number of test images; 0 if no cell kept its predictions' correctness.
        fractions: the fractions that scores run over.
        correct: booleans ``(images,)`` by method, mode, fraction and seed.
    """

    images: int
    fractions: Sequence[float]
    correct: Mapping[tuple[str, str, float, int], NDArray[np.bool_]]

    @cached_property
    def bootstrap(self) -> CrossedBootstrap:
        """Resamples of seeds and test images, the same for all scores."""
        return CrossedBootstrap(self.images)

    def area(
        self,
        method: str,
        modes: Sequence[str],
        seeds: Sequence[int],
        reference: str | None = None,
    ) -> Contributions | None:
        """Each image's contribution to KAR, ROAR or SUM, less that to the reference's.

        Args:
            method: name of the method.
            modes: both for SUM, one for KAR or ROAR.
            seeds: of the rows.
            reference: name of a control; None for the score itself.

        Returns:
            ``(seeds, images)``; None if a prediction's correctness was not kept.
        """
        found = {mode: self._of_mode(method, mode, seeds) for mode in modes}
        if any(bits is None for bits in found.values()):
            return None
        own = area_contributions(kar=found.get("kar"), roar=found.get("roar"))
        if reference is None:
            return own
        other = self.area(reference, modes, seeds)
        return None if other is None else own - other

    def information(self, method: str, random: str, seeds: Sequence[int]) -> Contributions | None:
        """Each image's contribution to the information score, ``(seeds, images)``.

        Args:
            method: name of the method.
            random: name of the random control.
            seeds: of the rows.

        Returns:
            None if a prediction's correctness was not kept, or if an accuracy of 0 makes the score
            infinite.
        """
        kar, roar = (self._of_mode(method, mode, seeds) for mode in ("kar", "roar"))
        other_kar, other_roar = (self._of_mode(random, mode, seeds) for mode in ("kar", "roar"))
        if kar is None or roar is None or other_kar is None or other_roar is None:
            return None
        try:
            return information_contributions(
                kar=kar, roar=roar, random_kar=other_kar, random_roar=other_roar
            )
        except ValueError:
            return None

    def _of_mode(self, method: str, mode: str, seeds: Sequence[int]) -> NDArray[np.bool_] | None:
        """Correctness ``(fractions, seeds, images)``; None if any is missing."""
        places = [[(method, mode, fraction, seed) for seed in seeds] for fraction in self.fractions]
        if not seeds or not all(place in self.correct for row in places for place in row):
            return None
        return np.stack([np.stack([self.correct[place] for place in row]) for row in places])


def read_correctness(run: Run) -> Correctness:
    """The correctness that the cells of a run kept.

    Args:
        run: as `reports.records.run.read_run` reads it.
    """
    kept = {result.id: result for result in run.results if result.correct is not None}
    rows = run.accuracy_records
    rows = rows[rows["fraction"].notna()]
    rows = rows[rows["cell"].isin(list(kept)) & rows["seed"].notna()]
    sizes = Counter(kept[cell].images for cell in rows["cell"])
    # Another number of images means other images, which cannot be paired.
    images = sizes.most_common(1)[0][0] if sizes else 0
    correct = {}
    for method, mode, fraction, seed, cell in zip(
        *(rows[name] for name in ("method", "mode", "fraction", "seed", "cell")), strict=True
    ):
        bits, count = kept[cell].correct, kept[cell].images
        if bits is not None and count == images:
            correct[method, mode, float(fraction), int(seed)] = unpack_bits(bits, count)
    return Correctness(images, run.fractions, correct)


def resampled(
    correctness: Correctness, wanted: Mapping[Key, tuple[Estimate, Contributions | None]]
) -> dict[Key, Estimate]:
    """Scores with intervals over seeds and test images, from one set of resamples.

    Args:
        correctness: of the run.
        wanted: each score as the records have it, and each image's contribution at its seeds.

    Returns:
        The scores; one without contributions or with one seed is returned as it was.
    """
    found = {key: estimate for key, (estimate, _) in wanted.items()}
    by_seeds: dict[tuple[int, ...], dict[Key, Contributions]] = {}
    for key, (estimate, contributions) in wanted.items():
        seeds = estimate.numbered_seeds
        if contributions is not None and len(seeds) > 1:
            by_seeds.setdefault(seeds, {})[key] = contributions
    for seeds, of_seeds in by_seeds.items():
        moved = correctness.bootstrap.deviations(np.stack(list(of_seeds.values())), seeds)
        for key, deviations in zip(of_seeds, moved, strict=True):
            mean = found[key].mean
            found[key] = replace(found[key], interval=symmetric_interval(mean, deviations))
    return found
