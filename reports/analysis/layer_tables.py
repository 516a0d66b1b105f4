"""Accuracies and scores inside the network, as in the paper's Tables 1 and 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from evaluation.scoring.scores import difference_score, information_score, t_interval
from reports.paper import table_4
from reports.records.estimates import Estimate

__all__ = ["MODES", "RANDOM", "LayerTable", "Measured", "measured", "printed"]

MODES = ("kar", "roar")
RANDOM = "random"

# Statistic, mode and layer.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Measured:
    """An accuracy and the id of the cell that measured it."""

    value: float
    cell: str


@dataclass(frozen=True)
class LayerTable:
    """Accuracies after masking one layer and fine-tuning the network behind it.

    Args:
        layers: the shallowest first.
        statistics: names, without the random control.
        by_seed: accuracies by statistic, mode and layer, for each seed.
    """

    layers: tuple[str, ...]
    statistics: tuple[str, ...]
    by_seed: Mapping[int | None, Mapping[Place, Measured]]

    def accuracy(self, statistic: str, mode: str, layer: str) -> Estimate | None:
        """An accuracy of Table 4 over the seeds; None before it was measured."""
        place = (statistic, mode, layer)
        return _over_seeds({s: [at[place]] for s, at in self.by_seed.items() if place in at}, _mean)

    def difference(self, statistic: str, layers: Sequence[str] | None = None) -> Estimate | None:
        """The difference score (Eq 8) over layers, against the random control of the same seed."""
        return self._score(statistic, layers or self.layers, difference_score)

    def information(self, statistic: str, log_base: float | None) -> Estimate | None:
        """The information score (Eq 9) over all layers; None if an accuracy is 0."""

        def score(**accuracies: list[float]) -> float:
            return information_score(**accuracies, log_base=log_base)

        try:
            return self._score(statistic, self.layers, score)
        except ValueError:
            return None

    def lead(
        self,
        statistic: str,
        other: str,
        layers: Sequence[str] | None = None,
        other_layers: Sequence[str] | None = None,
    ) -> Estimate | None:
        """The difference score of a statistic less that of another, paired by seed.

        Args:
            statistic: name of the first.
            other: name of the second; may be the first, at other layers.
            layers: layers of the first score; None for all.
            other_layers: layers of the second score; None for all.

        Returns:
            None if no seed has both.
        """
        own, theirs = self.difference(statistic, layers), self.difference(other, other_layers)
        if own is None or theirs is None:
            return None
        first, second = (dict(zip(e.seeds, e.values, strict=True)) for e in (own, theirs))
        seeds = [seed for seed in first if seed in second]
        gains = [first[seed] - second[seed] for seed in seeds]
        if not gains:
            return None
        cells = tuple(dict.fromkeys((*own.cells, *theirs.cells)))
        return Estimate(
            float(np.mean(gains)), t_interval(gains), tuple(seeds), cells, values=tuple(gains)
        )

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """Statistics by difference score, the highest first, those not measured last."""
        scores = {name: self.difference(name) for name in self.statistics}
        order = {name: -np.inf if e is None else e.mean for name, e in scores.items()}
        return tuple(sorted(self.statistics, key=lambda name: -order[name]))

    def best(self, mode: str, layer: str) -> str | None:
        """The statistic with the highest accuracy in KAR, or the lowest in ROAR, at a layer."""
        found = {name: self.accuracy(name, mode, layer) for name in self.statistics}
        means = {name: e.mean for name, e in found.items() if e is not None}
        if not means:
            return None
        pick: Callable[..., str] = max if mode == "kar" else min
        return pick(means, key=lambda name: means[name])

    def _score(
        self, statistic: str, layers: Sequence[str], score: Callable[..., float]
    ) -> Estimate | None:
        """A score over the seeds in which every layer was measured."""
        found: dict[int | None, list[Measured]] = {}
        for seed, at in self.by_seed.items():
            places = [
                (name, mode, layer)
                for name in (statistic, RANDOM)
                for mode in MODES
                for layer in layers
            ]
            if all(place in at for place in places):
                found[seed] = [at[place] for place in places]
        count = len(layers)

        def of(values: list[float]) -> float:
            kar, roar, random_kar, random_roar = (
                values[start : start + count] for start in range(0, 4 * count, count)
            )
            return score(kar=kar, roar=roar, random_kar=random_kar, random_roar=random_roar)

        return _over_seeds(found, of)


def measured(records: pd.DataFrame, layers: Sequence[str], statistics: Sequence[str]) -> LayerTable:
    """The accuracies of a run inside the network.

    Args:
        records: as `reports.records.frames.records_frame`, one record a number.
        layers: the plan's layers, the shallowest first.
        statistics: the plan's statistics.
    """
    rows = records[(records["metric"] == "accuracy") & records["layer"].notna()]
    by_seed: dict[int | None, dict[Place, Measured]] = {}
    for row in rows.sort_values("seed").itertuples():
        place = (str(row.method), str(row.mode), str(row.layer))
        seen = Measured(float(str(row.value)), str(row.cell))
        by_seed.setdefault(int(str(row.seed)), {})[place] = seen
    return LayerTable(tuple(layers), tuple(statistics), by_seed)


def printed(dataset: str) -> LayerTable:
    """Table 4 of the paper for one data set; the statistics have the paper's names.

    >>> round(printed("Places").difference("SMOE Scale").mean, 2)
    0.9
    """
    frame = table_4().loc[dataset]
    layers = tuple(f"l{number}" for number in range(1, 6))
    places = {
        (RANDOM if name == "Random" else str(name), mode, layer): Measured(
            float(frame.loc[name, f"{mode}_{layer}"]), ""
        )
        for name in frame.index
        for mode in MODES
        for layer in layers
    }
    statistics = tuple(str(name) for name in frame.index if name != "Random")
    return LayerTable(layers, statistics, {None: places})


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _over_seeds(
    by_seed: Mapping[int | None, list[Measured]], score: Callable[[list[float]], float]
) -> Estimate | None:
    if not by_seed:
        return None
    scores = [score([entry.value for entry in entries]) for entries in by_seed.values()]
    cells = dict.fromkeys(entry.cell for entries in by_seed.values() for entry in entries)
    return Estimate(
        float(np.mean(scores)),
        t_interval(scores),
        tuple(by_seed),
        tuple(cells),
        values=tuple(scores),
    )
