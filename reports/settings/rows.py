"""A row for each cheaper setting: its added time, and its quality held against SMOE Scale's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.profiling.timing import Interval
from evaluation.scoring.significance import PairedTest, paired_tests
from evaluation.storage.archive import CELLS
from reports.measured.scores import scored
from reports.records.added_times import added_times
from reports.records.estimates import Estimate, estimate
from reports.records.reading import read_run
from reports.records.run import Run

__all__ = ["NETWORKS", "QUALITIES", "RUNS", "SETTINGS", "Quality", "Row", "Runs", "rows"]

_RECORDED = Path(__file__).parents[1] / "runs"
# The row that others are held against, and the bar that all of them have to clear.
_FIRST, CENTRE = "smoe-linear", "centre"
# Methods of the comparison with the arguments of `SMOEScale` that they stand for.
SETTINGS: dict[str, str] = {
    _FIRST: "the default",
    "smoe-late": '`layers="late"`',
    "mean-linear": '`statistic="mean"`',
    "mean-late": '`statistic="mean", layers="late"`',
    "std-linear": '`statistic="std"`',
    "std-late": '`statistic="std", layers="late"`',
    CENTRE: "a disk at the centre, no map",
}
NETWORKS = {"resnet50": "ResNet-50", "mobilenet_v3_large": "MobileNetV3-Large"}


@dataclass(frozen=True)
class Runs:
    """Folders of recorded runs; one that does not exist leaves its numbers not measured.

    Args:
        costs: of `python -m comparisons profile`.
        shapes: of `python -m comparisons run` on `shapes`.
        photographs: of `python -m comparisons run --modes none`.
    """

    costs: Path = _RECORDED / "settings-profile"
    shapes: Path = _RECORDED / "settings-shapes"
    photographs: Path = _RECORDED / "imagenette-lite0"


RUNS = Runs()
# Of the added times.
_THREADS = 2


@dataclass(frozen=True)
class Quality:
    """A column of quality, higher for a better map.

    Args:
        key: name in code.
        title: of the column.
        unit: of the pairs that a difference is made of.
    """

    key: str
    title: str
    unit: str


QUALITIES = (
    Quality("mass", "mass in the object, shapes", "seed"),
    Quality("total", "KAR + ROAR, shapes", "seed"),
    Quality("area", "insertion less deletion, photographs", "image"),
    Quality("road", "ROAD, photographs", "image"),
)


@dataclass(frozen=True)
class Measured:
    """A quality of a setting.

    Args:
        value: its mean with its interval, over seeds or images.
        difference: from SMOE Scale's, in pairs; None for SMOE Scale itself.
        test: of the difference, corrected with those of the other settings by Holm's method.
    """

    value: Estimate
    difference: Estimate | None = None
    test: PairedTest | None = None

    @property
    def verdict(self) -> str:
        """``above``, ``below`` or ``not told``; empty for SMOE Scale itself."""
        if self.difference is None:
            return ""
        if self.test is None or self.test.adjusted >= 0.05:
            return "not told"
        return "above" if self.difference.mean > 0 else "below"


@dataclass(frozen=True)
class Row:
    """A setting.

    Args:
        method: name of the method.
        words: its arguments in Markdown.
        added: percent added to the time of a forward pass, by network; without those not measured.
        qualities: by the key of `QUALITIES`; without those not measured.
    """

    method: str
    words: str
    added: Mapping[str, Interval]
    qualities: Mapping[str, Measured]


def rows(runs: Runs = RUNS) -> list[Row]:
    """The rows of the table, SMOE Scale's first.

    Args:
        runs: the recorded runs.
    """
    costs = added_times(runs.costs, _THREADS)
    found: dict[str, Mapping[str, Measured]] = {}
    shapes = _read(runs.shapes)
    if shapes is not None:
        found |= {"mass": _mass(shapes), "total": _total(shapes)}
    photographs = _read(runs.photographs)
    if photographs is not None:
        found |= _of_images(photographs)
    return [
        Row(
            method,
            words,
            {name: own for name, own in costs.get(method, {}).items() if name in NETWORKS},
            {key: by_method[method] for key, by_method in found.items() if method in by_method},
        )
        for method, words in SETTINGS.items()
    ]


def _read(folder: Path) -> Run | None:
    return read_run(folder) if (folder / CELLS).exists() else None


def _mass(run: Run) -> dict[str, Measured]:
    frame = run.records
    frame = frame[frame["metric"] == "mass_in_object"].sort_values("seed")
    values = {
        str(name): dict(zip(of["seed"].astype(int), of["value"], strict=True))
        for name, of in frame.groupby("method")
    }
    estimates = {str(name): estimate(of) for name, of in frame.groupby("method")}
    return _paired(estimates, values)


def _total(run: Run) -> dict[str, Measured]:
    estimates = {name: sums.total for name, sums in run.sums.items() if sums.total is not None}
    values = {
        name: dict(zip(found.numbered_seeds, found.values, strict=True))
        for name, found in estimates.items()
    }
    return _paired(estimates, values)


def _paired(
    estimates: Mapping[str, Estimate], values: Mapping[str, Mapping[int, float]]
) -> dict[str, Measured]:
    """Each setting held against the first one, in pairs of a seed."""
    first = values.get(_FIRST, {})
    others = [name for name in SETTINGS if name in estimates and name != _FIRST]
    differences = [
        [values[name][seed] - first[seed] for seed in sorted(first.keys() & values[name].keys())]
        for name in others
    ]
    return _held(estimates, others, differences)


def _held(
    estimates: Mapping[str, Estimate], others: Sequence[str], differences: Sequence[list[float]]
) -> dict[str, Measured]:
    found = {_FIRST: Measured(estimates[_FIRST])} if _FIRST in estimates else {}
    for name, values, test in zip(others, differences, paired_tests(differences), strict=True):
        difference = None
        if values:
            mean = sum(values) / len(values)
            difference = Estimate(mean, None, (None,), estimates[name].cells)
        found[name] = Measured(estimates[name], difference, test)
    return found


def _of_images(run: Run) -> dict[str, dict[str, Measured]]:
    """The qualities of photographs, in pairs of an image, corrected among the settings."""
    found = {}
    for each in scored(run, (_FIRST,)):
        if each.score.key in {quality.key for quality in QUALITIES}:
            estimates = {name: own.estimate for name, own in each.methods.items()}
            first = each.methods.get(_FIRST)
            others = [name for name in SETTINGS if name in estimates and name != _FIRST]
            differences = [
                [] if first is None else each.methods[name].less(first).tolist() for name in others
            ]
            found[each.score.key] = _held(estimates, others, differences)
    return found
