"""The order of a run's methods by each of its scores, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reports.analysis.answers import verdicts
from reports.analysis.certainty import certainty
from reports.analysis.overview import ranked_sums
from reports.measured.scores import MAIN_SCORES, Scored, scored
from reports.records.estimates import SCORE_TITLES, values_of
from reports.records.run import Run
from reports.verdicts import Verdict

__all__ = ["Order", "orders"]


@dataclass(frozen=True)
class Order:
    """A score of a run's methods, and what is told from its references.

    Args:
        key: name in code.
        title: name in sentences.
        seeds: the score by method and seed, higher for a better method; of a score without
            retraining the mean over images, as of seed 0. Controls have none.
        verdicts: by reference, then by method; none for a method that was not tested.
    """

    key: str
    title: str
    seeds: Mapping[str, Mapping[int, float]]
    verdicts: Mapping[str, Mapping[str, Verdict]]


def orders(run: Run) -> dict[str, Order]:
    """Every score of a run, by its key: KAR, ROAR and SUM, then those without retraining.

    Args:
        run: as `reports.records.run.read_run` reads it.
    """
    return {order.key: order for order in (*_retrained(run), *_measured(run))}


def _retrained(run: Run) -> Iterator[Order]:
    sure = certainty(run, ranked_sums(run))
    for key, title in SCORE_TITLES.items():
        seeds = {
            name: values
            for name, values in values_of(run.seed_sums[key]).items()
            if values and run.methods[name].group != "control"
        }
        if seeds:
            yield Order(key, title, seeds, verdicts(sure, key))


def _measured(run: Run) -> Iterator[Order]:
    for found in scored(run):
        if found.score.key in MAIN_SCORES:
            yield _of_images(run, found)


def _of_images(run: Run, found: Scored) -> Order:
    own = {
        name: method
        for name, method in found.methods.items()
        if run.methods[name].group != "control"
    }
    return Order(
        key=found.score.key,
        title=found.score.title,
        seeds={name: {0: float(method.values.mean())} for name, method in own.items()},
        verdicts={
            reference: {
                name: difference.verdict
                for name in own
                if (difference := found.difference(name, reference)) is not None
            }
            for reference in found.differences
        },
    )
