"""Figures that other groups published, beside ours: ROAD's and torch-cam's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from evaluation.masking.variants import BLURRED
from reports.formatting import counted, score
from reports.records.estimates import accuracies, per_method
from reports.records.run import Run
from reports.reproduction.claims import Claim, command_of, of_kind, section

__all__ = ["NOTEBOOK", "TORCH_CAM", "spearman"]

# Accuracy of ROAD's notebook by percent of the pixels removed: Integrated Gradients, most
# relevant first, linear fill, no retraining.
NOTEBOOK = {10: 71.32, 20: 66.09, 30: 61.25, 40: 57.14, 50: 53.71, 70: 44.86, 90: 29.10}
_NOTEBOOK_BASE = 80.14
_NOTEBOOK_COMMAND = (
    "python -m comparisons run --data cifar10 --model resnet18 --modes none --mask-only none "
    "--methods ig --measures road --measure-images 10000 --epochs 40 --batch-size 32 "
    "--optimizer sgd --learning-rate 0.01 --schedule step --milestones 10,20,30 --warmup 0 "
    "--weight-decay 0 --label-smoothing 0 --augment none --precision float32"
)
_RANKS_COMMAND = (
    "python -m comparisons run --data cifar10 --fill noisy-linear,mean --measures road "
    "--methods gradient,gradient-sgsq,guided-backprop,guided-backprop-sgsq,ig,ig-sgsq"
)
# Average drop and increase in confidence of torch-cam's README, resnet18 on Imagenette.
TORCH_CAM = {
    "gradcam": (0.2686, 0.2250),
    "gradcam++": (0.5271, 0.1962),
    "smoothgradcam++": (0.2088, 0.2499),
    "layercam": (0.1712, 0.2819),
}
_BESIDE = ("smoe-linear", "fastcam", "centre", "random")
_COMMAND_OF_DROPS = (
    "python -m comparisons run --preset published --data imagenette --model resnet18 "
    "--measures average-drop --methods " + ",".join((*TORCH_CAM, *_BESIDE))
)
_RESAMPLES = 1_000


@section("Figures of other groups")
def _others(runs: Sequence[Run]) -> Iterator[Claim]:
    found = of_kind(runs, "run")
    yield from _notebook(found)
    yield from _rank_correlations(found)
    yield from _average_drops(found)


def _notebook(runs: Sequence[Run]) -> Iterator[Claim]:
    run = next(
        (
            run
            for run in runs
            if run.model == "resnet18" and _measured(run, "road_most_accuracy", "ig")
        ),
        None,
    )
    steps = np.interp(range(10, 100, 10), list(NOTEBOOK), list(NOTEBOOK.values()))
    places = (
        ("Accuracy of the unmasked resnet18 at 32x32", _NOTEBOOK_BASE, f"{_NOTEBOOK_BASE} %"),
        (
            "Mean accuracy as Integrated Gradients' most relevant 10, 20, ..., 90 % go, linear "
            "fill, no retraining",
            float(steps.mean()),
            f"{steps.mean():.2f} %, from its {', '.join(f'{y:g}' for y in NOTEBOOK.values())} at "
            f"{', '.join(map(str, NOTEBOOK))} %, 60 and 80 % interpolated",
        ),
    )
    ours: tuple[float | None, float | None] = None, None
    if run is not None:
        whole = None if run.unmasked is None else 100 * run.unmasked.mean
        ours = whole, 100 * per_method(run.records, "road_most_accuracy")["ig"].mean
    for (statement, theirs, claimed), own in zip(places, ours, strict=True):
        yield Claim(
            "ROAD, the authors' notebook",
            statement,
            claimed,
            "equal to",
            theirs,
            own,
            unit="%",
            paper=theirs,
            measured_on="" if run is None else _where(run),
            command=_NOTEBOOK_COMMAND if run is None else command_of(run),
            note=f"differs: {'; '.join(_differences(run))}",
            comparable=False,
        )


def _differences(run: Run | None) -> Iterator[str]:
    """What differs from the authors' notebook, in words."""
    yield "Nesterov momentum"
    yield "the class explained is the predicted one"
    yield "weights of another training"
    if run is None:
        return
    precision = run.options.get("recipe", {}).get("precision", "float32")
    if precision != "float32":
        yield f"trained in {precision}"
    data = str(run.options.get("data", "cifar10"))
    if data != "cifar10":
        yield f"the images are copies, those of {data}"


@dataclass(frozen=True)
class _Correlation:
    """A rank correlation that ROAD's authors print.

    Args:
        statement: in words.
        printed: their figure.
        mode: of the retraining, ``roar`` or ``kar``.
        measure: metric without retraining; None to compare the two fills with retraining.
    """

    statement: str
    printed: float
    mode: str
    measure: str | None


_CORRELATIONS = (
    _Correlation(
        "Most relevant first, linear fill: with against without retraining",
        0.86,
        "roar",
        "road_most_accuracy",
    ),
    _Correlation(
        "Least relevant first, linear fill: with against without retraining",
        0.95,
        "kar",
        "road_least_accuracy",
    ),
    _Correlation(
        "Most relevant first with retraining: fixed against linear fill", 0.69, "roar", None
    ),
)


def _rank_correlations(runs: Sequence[Run]) -> Iterator[Claim]:
    for printed in _CORRELATIONS:
        nothing = True
        for run in runs:
            orders = _orders(run, printed)
            if orders is not None:
                nothing = False
                yield _correlated(run, printed, *orders)
        if nothing:
            yield Claim(
                "ROAD, rank correlations of 8 methods",
                f"Spearman's correlation of the methods. {printed.statement}",
                f"{printed.printed:g}",
                "at least",
                printed.printed,
                None,
                unit="rank correlation",
                paper=printed.printed,
                command=_RANKS_COMMAND,
            )


def _orders(
    run: Run, printed: _Correlation
) -> tuple[Mapping[str, float], Mapping[str, float], str] | None:
    """Two accuracies by method, and the fill of the retrained one; None if a run lacks them."""
    linear = _retrained(run, printed.mode, "noisy-linear")
    fixed = _retrained(run, printed.mode, "mean")
    if printed.measure is None:
        found: tuple[Mapping[str, float], Mapping[str, float], str] = fixed, linear, "both"
    else:
        own = {name: each.mean for name, each in per_method(run.records, printed.measure).items()}
        found = (linear, own, "linear") if linear else (fixed, own, "fixed")
    return found if len(found[0].keys() & found[1].keys()) > 2 else None


def _retrained(run: Run, mode: str, fill: str) -> dict[str, float]:
    """Mean accuracy of each method over the fractions, at a fill, else as the protocol has it.

    Blurred forms are left out: with the methods that they are made of, they would count twice.
    """
    rows = run.every_variant
    usual = (rows["mask_unit"] == "pixel") & (rows["target_from"] == "self")
    usual &= ~rows["recursive"].astype(bool)
    found: dict[str, list[float]] = {}
    for (method, own, fraction), each in accuracies(rows[usual & (rows["fill"] == fill)]).items():
        if own == mode and fraction in run.fractions and not method.endswith(BLURRED):
            found.setdefault(method, []).append(each.mean)
    return {
        name: float(np.mean(values))
        for name, values in found.items()
        if len(values) == len(run.fractions)
    }


def _correlated(
    run: Run,
    printed: _Correlation,
    first: Mapping[str, float],
    second: Mapping[str, float],
    fill: str,
) -> Claim:
    names = [name for name in first if name in second]
    rho, interval = spearman([first[name] for name in names], [second[name] for name in names])
    low, high = interval
    seeds = counted(len(run.options.get("seeds", ())), "seed")
    differs = ["controls are among the methods"]
    if printed.measure is not None and fill == "fixed":
        differs.append("retrained with the fixed fill: this run has no linear one")
    return Claim(
        "ROAD, rank correlations of 8 methods",
        f"Spearman's correlation of the methods. {printed.statement}",
        f"{printed.printed:g}",
        "at least",
        printed.printed,
        rho,
        unit="rank correlation",
        paper=printed.printed,
        measured_on=f"{_where(run)}, {counted(len(names), 'method')}, {seeds}",
        command=command_of(run),
        note=f"95 % [{score(low)}, {score(high)}], methods resampled; differs: "
        + "; ".join(differs),
        told=not low <= printed.printed <= high,
    )


def spearman(
    first: Sequence[float], second: Sequence[float], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Spearman's correlation with its 95 % percentile interval over resampled entries.

    >>> spearman([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0])
    (1.0, (1.0, 1.0))
    """
    one, other = np.asarray(first), np.asarray(second)
    rho = float(stats.spearmanr(one, other).statistic)
    drawn = np.random.default_rng(seed).integers(len(one), size=(_RESAMPLES, len(one)))
    ranked = [stats.rankdata(values[drawn], axis=1) for values in (one, other)]
    first_off, second_off = (ranks - ranks.mean(1, keepdims=True) for ranks in ranked)
    scale = np.sqrt((first_off**2).sum(1) * (second_off**2).sum(1))
    found = (first_off * second_off).sum(1)[scale > 0] / scale[scale > 0]
    low, high = np.quantile(found, (0.025, 0.975)).round(12)
    return round(rho, 12), (float(low), float(high))


def _average_drops(runs: Sequence[Run]) -> Iterator[Claim]:
    measured = [
        run for run in runs if any(_measured(run, "average_drop", cam) for cam in TORCH_CAM)
    ]
    # The most images, since each run has another network.
    run = max(measured, key=_images_measured, default=None)
    for place, (metric, title) in enumerate(
        (("average_drop", "Average drop"), ("confidence_increase", "Increase in confidence"))
    ):
        ours = {} if run is None else per_method(run.records, metric)
        for method in (*TORCH_CAM, *_BESIDE):
            published = TORCH_CAM.get(method)
            own = ours.get(method)
            if published is None and own is None:
                continue
            entry = None if run is None else run.methods.get(method)
            named = method if entry is None else entry.title
            theirs = None if published is None else published[place]
            yield Claim(
                "torch-cam, README",
                f"{title} of {named}",
                "none published" if theirs is None else f"{theirs:.4f}",
                "equal to",
                0.0 if theirs is None else theirs,
                None if own is None else own.mean,
                unit="share",
                paper=theirs,
                measured_on="" if run is None else _where(run),
                command=_COMMAND_OF_DROPS if run is None else command_of(run),
                note="theirs is of resnet18; each of the class it predicts",
                cells=() if own is None else own.cells,
                comparable=False,
            )


def _measured(run: Run, metric: str, method: str) -> bool:
    rows: pd.DataFrame = run.records
    return bool(((rows["metric"] == metric) & (rows["method"] == method)).any())


def _images_measured(run: Run) -> int:
    return max((len(cell.history) for cell in run.cells("measure")), default=0)


def _where(run: Run) -> str:
    """Network, images and fractions of a figure in words."""
    images = _images_measured(run)
    sample = f", {counted(images, 'test image')} measured" if images else ""
    shares = ", ".join(f"{100 * fraction:g}" for fraction in run.fractions)
    retrained = f"; retrained at {shares} %" if run.accuracies else ""
    return f"{run.model} on {run.dataset}{sample}{retrained}"
