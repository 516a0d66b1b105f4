"""Certainty of a comparison: intervals of scores and differences, tests, and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evaluation.scoring.intervals import RESAMPLES, symmetric_interval
from evaluation.scoring.scores import information_score
from evaluation.scoring.significance import (
    PairedTest,
    RankCertainty,
    paired_tests,
    pooled_deviation,
    rank_certainty,
    seeds_needed,
    wilcoxon_floor,
)
from reports.analysis.overview import REFERENCES, SumsRow
from reports.records.correctness import Contributions, Correctness, read_correctness, resampled
from reports.records.estimates import SCORE_TITLES, SCORES, Estimate, Sums, over_seeds
from reports.records.run import Method, Run

__all__ = ["Certainty", "PairedDifferences", "Ranked", "SeedsNeeded", "certainty"]

_RANDOM = "random"

# Control or None, method, and score.
Key = tuple[str | None, str, str]
# Mode and fraction.
Place = tuple[str, float]


@dataclass(frozen=True)
class PairedDifferences:
    """A method's scores minus a control's, paired by seed.

    Args:
        sums: the differences.
        test: of the difference in the score that methods are ranked by; None without two seeds.
    """

    sums: Sums
    test: PairedTest | None


@dataclass(frozen=True)
class Ranked:
    """A method's rank.

    Args:
        method: the method.
        score: the score it is ranked by, over the seeds that all ranked methods have.
        certainty: of the rank.
    """

    method: Method
    score: Estimate
    certainty: RankCertainty


@dataclass(frozen=True)
class SeedsNeeded:
    """The number of seeds that would show a difference of one point.

    Args:
        title: name of the score or accuracy.
        reference: name of the control it differs from.
        deviation: standard deviation over seeds of the paired difference, pooled over methods.
        seeds: for 80 % power at a two-sided 5 % level.
    """

    title: str
    reference: str
    deviation: float
    seeds: int


@dataclass(frozen=True)
class Certainty:
    """Intervals, paired differences, ranks and tests of a comparison.

    Args:
        rows: of the table of sums, in its order, with intervals over seeds and images.
        ranked_by: key of `SCORES` that methods are ranked and tested by.
        against: differences by control, then by method.
        information: information score by method; empty without a random control.
        ranking: the methods with two seeds or more, the best first; empty if they share one.
        one_seed: the methods that have one seed alone, and so no certain place.
        needed: seeds for a difference of one point, a row a score and control.
        seeds: the most seeds that a method has.
        images: how many test images were resampled; 0 where intervals are over seeds alone.
        resamples: number of resamples.
    """

    rows: Sequence[SumsRow]
    ranked_by: str
    against: Mapping[str, Mapping[str, PairedDifferences]]
    information: Mapping[str, Estimate]
    ranking: Sequence[Ranked]
    one_seed: Sequence[Method]
    needed: Sequence[SeedsNeeded]
    seeds: int
    images: int
    resamples: int

    @property
    def score(self) -> str:
        """Title of the score that methods are ranked and tested by."""
        return SCORE_TITLES[self.ranked_by]

    @property
    def wilcoxon(self) -> float:
        """The smallest p that Wilcoxon's test can give with this number of seeds."""
        return wilcoxon_floor(self.seeds)


def certainty(run: Run, rows: Sequence[SumsRow]) -> Certainty:
    """Intervals, paired differences, ranks and tests of a run.

    Args:
        run: as `reports.records.run.read_run` reads it.
        rows: as `reports.analysis.overview.ranked_sums` orders them.

    Returns:
        Intervals are over seeds and test images if the cells kept the correctness on every test
        image, else Student's over seeds; one seed has none.
    """
    correctness = read_correctness(run)
    ranked_by = _ranked_by(run)
    references = [name for name in REFERENCES if name in run.methods]
    wanted: dict[Key, tuple[Estimate, Contributions | None]] = {}
    for row in rows:
        for score, modes in SCORES.items():
            estimate: Estimate | None = getattr(row.sums, score)
            if estimate is not None:
                contributions = correctness.area(row.method.name, modes, estimate.numbered_seeds)
                wanted[None, row.method.name, score] = estimate, contributions
    for reference in references:
        for score, modes in SCORES.items():
            for name, estimate in run.differences(reference, score).items():
                contributions = correctness.area(name, modes, estimate.numbered_seeds, reference)
                wanted[reference, name, score] = estimate, contributions
    if _RANDOM in references:
        for name, estimate in _information(run).items():
            contributions = correctness.information(name, _RANDOM, estimate.numbered_seeds)
            wanted[_RANDOM, name, "information"] = estimate, contributions
    found = resampled(correctness, wanted)
    seeds = {
        row.method.name: len(estimate.seeds)
        for row in rows
        if (estimate := getattr(row.sums, ranked_by)) is not None
    }
    return Certainty(
        rows=[replace(row, sums=_sums(found, None, row.method.name)) for row in rows],
        ranked_by=ranked_by,
        against=_against(found, references, list(run.methods), ranked_by),
        information={
            name: estimate for (_, name, score), estimate in found.items() if score == "information"
        },
        ranking=_ranking(rows, ranked_by, correctness),
        one_seed=[row.method for row in rows if seeds.get(row.method.name) == 1],
        needed=list(_needed(run, references)),
        seeds=max(seeds.values(), default=0),
        images=correctness.images,
        resamples=RESAMPLES,
    )


def _ranked_by(run: Run) -> str:
    """Key of the score that methods are ranked by: SUM, or the one that the run's mode gives."""
    return run.modes[0] if len(run.modes) == 1 and run.modes[0] in SCORES else "total"


def _sums(found: Mapping[Key, Estimate], reference: str | None, method: str) -> Sums:
    return Sums(**{score: found.get((reference, method, score)) for score in SCORES})


def _against(
    found: Mapping[Key, Estimate], references: Sequence[str], methods: Sequence[str], score: str
) -> dict[str, dict[str, PairedDifferences]]:
    """Paired differences by control and method; their tests are corrected together."""
    places = [
        (reference, name)
        for index, reference in enumerate(references)
        for name in methods
        # Two controls are compared once.
        if (reference, name, score) in found and name not in references[:index]
    ]
    tests = paired_tests([found[ref, name, score].values for ref, name in places])
    against: dict[str, dict[str, PairedDifferences]] = {reference: {} for reference in references}
    for (reference, name), test in zip(places, tests, strict=True):
        against[reference][name] = PairedDifferences(_sums(found, reference, name), test)
    return {reference: by_method for reference, by_method in against.items() if by_method}


def _ranking(rows: Sequence[SumsRow], score: str, correctness: Correctness) -> list[Ranked]:
    """Ranks of the methods with several seeds, over the seeds that all of them have."""
    several: list[tuple[Method, Estimate]] = []
    for row in rows:
        estimate: Estimate | None = getattr(row.sums, score)
        if estimate is not None and len(estimate.numbered_seeds) > 1:
            several.append((row.method, estimate))
    if len(several) < 2:
        return []
    shared = sorted(set.intersection(*(set(estimate.numbered_seeds) for _, estimate in several)))
    known: list[tuple[Method, Estimate, Contributions]] = []
    for method, estimate in several:
        contributions = correctness.area(method.name, SCORES[score], shared)
        by_seed = dict(zip(estimate.seeds, estimate.values, strict=True))
        own = over_seeds({seed: (by_seed[seed], estimate.cells) for seed in shared})
        if contributions is not None and own is not None:
            known.append((method, own, contributions))
    if len(shared) < 2 or len(known) < 2:
        return []
    moved = correctness.bootstrap.deviations(
        np.stack([contributions for *_, contributions in known]), shared
    )
    sure = rank_certainty([own.mean for _, own, _ in known], moved)
    ranked = [
        Ranked(method, replace(own, interval=symmetric_interval(own.mean, off)), place)
        for (method, own, _), off, place in zip(known, moved, sure, strict=True)
    ]
    return sorted(ranked, key=lambda entry: -entry.score.mean)


def _information(run: Run) -> dict[str, Estimate]:
    """Eq 9 for every method against the random control of the same seed."""
    accuracies = _accuracies(run)
    random = accuracies.get(_RANDOM, {})
    found = {}
    for name, own in accuracies.items():
        by_seed = {}
        for seed in sorted(own.keys() & random.keys()):
            kar, roar = ([(mode, f) for f in run.fractions] for mode in ("kar", "roar"))
            every = [*kar, *roar]
            if name == _RANDOM or not all(p in own[seed] and p in random[seed] for p in every):
                continue
            try:
                score = information_score(
                    kar=[own[seed][place][0] for place in kar],
                    roar=[own[seed][place][0] for place in roar],
                    random_kar=[random[seed][place][0] for place in kar],
                    random_roar=[random[seed][place][0] for place in roar],
                )
            except ValueError:  # an accuracy of 0 makes it infinite
                continue
            cells = dict.fromkeys(at[seed][p][1] for at in (own, random) for p in every)
            by_seed[seed] = score, tuple(cells)
        estimate = over_seeds(by_seed)
        if estimate is not None:
            found[name] = estimate
    return found


def _needed(run: Run, references: Sequence[str]) -> Iterator[SeedsNeeded]:
    accuracies = _accuracies(run)
    for reference in references:
        base = accuracies.get(reference, {})
        by_place: dict[tuple[str, Place], list[float]] = {}
        for name, own in accuracies.items():
            for seed in own.keys() & base.keys() if name != reference else ():
                for place in own[seed].keys() & base[seed].keys():
                    difference = own[seed][place][0] - base[seed][place][0]
                    by_place.setdefault((name, place), []).append(difference)
        spreads = {"one accuracy": pooled_deviation(list(by_place.values()))}
        for score, title in SCORE_TITLES.items():
            paired = run.differences(reference, score).values()
            spreads[title] = pooled_deviation([difference.values for difference in paired])
        for title, deviation in spreads.items():
            if deviation is not None:
                yield SeedsNeeded(title, reference, deviation, seeds_needed(deviation))


def _accuracies(run: Run) -> dict[str, dict[int, dict[Place, tuple[float, str]]]]:
    """``(accuracy, cell)`` by method, seed, and mode and fraction."""
    rows = run.accuracy_records
    rows = rows[rows["fraction"].notna()]
    found: dict[str, dict[int, dict[Place, tuple[float, str]]]] = {}
    for method, seed, mode, fraction, value, cell in zip(
        *(rows[n] for n in ("method", "seed", "mode", "fraction", "value", "cell")), strict=True
    ):
        of_seed = found.setdefault(method, {}).setdefault(int(seed), {})
        of_seed[mode, float(fraction)] = float(value), cell
    return found
