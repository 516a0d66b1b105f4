"""Content of the section on measures without retraining, with their agreement with retraining."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evaluation.scoring.scores import t_interval
from evaluation.storage.records import METRICS, Metric
from reports.analysis.overview import SumsRow
from reports.analysis.rank_agreement import OrderAgreement, order_agreement
from reports.figures.charts import Chart, chart
from reports.figures.measures import measures_figure
from reports.formatting import percent
from reports.records.estimates import SCORE_TITLES, Estimate, estimate, per_method, values_of
from reports.records.run import Method, Run

__all__ = ["COMPLEXITY", "Column", "measures_context"]

# Metrics that rank methods, in the order of the table.
_RANKING = (
    *("deletion_area", "insertion_area"),
    *("deletion_area_noisy_linear", "insertion_area_noisy_linear"),
    *("road_most_accuracy", "road_least_accuracy"),
    *("average_drop", "confidence_increase"),
)
# Metrics of networks that were fine-tuned once for all methods, likewise.
_FINE_TUNED = (
    *("ffid_plus", "ffid_minus", "ffid_plus_accuracy", "ffid_minus_accuracy"),
    "idsds",
)
_TUNED_NETWORKS = {"ffid_network_accuracy": "F-Fidelity", "idsds_network_accuracy": "IDSDS"}
# Keys of `SCORES` that each measure's order is compared with.
_RETRAINED = ("total", "roar", "kar")
# Steps of a plan that says none.
_USUAL_STEPS = 20
_NEEDS_TRUTH = ("pointing_game", "mass_in_object")
COMPLEXITY = ("total_variation", "png_bytes")
_SIMILARITIES = ("spearman", "ssim")


@dataclass(frozen=True)
class Column:
    """A column of the tables: one metric of every method.

    Args:
        metric: the metric.
        by_method: its estimates.
        layer: the last layer that was randomised; None if none was.
        agreement: of its order with that of each retrained score, by a key of `SCORES`; empty
            where nothing was retrained.
    """

    metric: Metric
    by_method: Mapping[str, Estimate]
    layer: str | None = None
    agreement: Mapping[str, OrderAgreement] = field(default_factory=dict)

    @property
    def oriented(self) -> dict[str, float]:
        """Means by method, with the sign that makes higher better."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        return {name: sign * found.mean for name, found in self.by_method.items()}


def measures_context(run: Run, rows: Sequence[SumsRow], score: str) -> dict[str, Any]:
    """Everything that ``measures.html.j2`` names.

    Args:
        run: the run.
        rows: its methods with their sums, the best first.
        score: name of the retrained score that `rows` are ranked by.
    """
    retrained = {row.method.name: row.score.mean for row in rows if row.score is not None}
    truth = bool(run.data.get("has_object_masks"))
    wanted = (*_RANKING, *(_NEEDS_TRUTH if truth or _any(run, _NEEDS_TRUTH) else ()))
    ranking = [_agreeing(run, _column(run, name)) for name in wanted]
    fine_tuned = [_agreeing(run, _column(run, name)) for name in _FINE_TUNED]
    layers = _randomised_layers(run)
    weights = {
        kind: [_column(run, f"weights_{kind}", layer) for layer in layers] for kind in _SIMILARITIES
    }
    labels = {kind: _column(run, f"labels_{kind}") for kind in _SIMILARITIES}
    measured = [column for column in ranking if column.by_method]
    on_tuned = [column for column in fine_tuned if column.by_method]
    randomised = [
        *weights["spearman"],
        *([labels["spearman"]] if labels["spearman"].by_method else []),
    ]
    order = [row.method for row in rows]
    descriptions = [_column(run, name) for name in COMPLEXITY]
    checks = {
        "randomised weights": any(column.by_method for column in weights["spearman"]),
        "permuted labels": bool(labels["spearman"].by_method),
    }
    return {
        "measure_missing": [
            *(
                column.metric.title
                for column in (*ranking, *fine_tuned, *descriptions)
                if not column.by_method and run.axes in column.metric.axes
            ),
            *(name for name, found in checks.items() if not found),
        ],
        "measure_ranking": measured,
        "measure_fine_tuned": on_tuned,
        "measure_agreeing": [*measured, *on_tuned],
        "measure_retrained": {
            key: SCORE_TITLES[key] for key in _RETRAINED if any(run.seed_sums[key].values())
        },
        "measure_resampled": _resampled([*measured, *on_tuned]),
        "measure_networks": _networks(run),
        "measure_truth": truth,
        "measure_stages": layers,
        "measure_weights": weights,
        "measure_labels": labels,
        "measure_descriptions": [column for column in descriptions if column.by_method],
        "measure_chart": _chart(order, retrained, score, [*measured, *on_tuned], randomised),
        "measure_sample": _sample(run),
        "measure_spread": _spread(run),
        "measure_permuted": _permuted(run),
        "measure_shares": _shares(run),
    }


def _column(run: Run, name: str, layer: str | None = None) -> Column:
    records = run.records
    rows = records[records["metric"] == name]
    rows = rows[rows["layer"].isna() if layer is None else rows["layer"] == layer]
    key = name if layer is None else f"{name} {layer}"
    return Column(
        METRICS[name],
        {
            str(method): _with_images(run, estimate(group.sort_values("seed")), key)
            for method, group in rows.groupby("method", sort=False)
        },
        layer,
    )


def _with_images(run: Run, found: Estimate, key: str) -> Estimate:
    """An estimate with its interval over the sample's images, if one seed gives none over seeds."""
    if found.interval is not None:
        return found
    cells = {cell.id: cell for cell in run.cells("measure")}
    (cell,) = found.cells
    values = [entry[key] for entry in cells[cell].history] if cell in cells else []
    return replace(found, interval=t_interval(values)) if values else found


def _agreeing(run: Run, column: Column) -> Column:
    sign = 1.0 if column.metric.higher_is_better else -1.0
    rows = run.records[run.records["metric"] == column.metric.name]
    # The pointing game is of maps alone, and has no seed: one value of each method.
    seeded = rows[rows["seed"].notna()] if rows["seed"].notna().any() else rows.assign(seed=0)
    by_seed: dict[str, dict[int, float]] = {}
    for row in seeded.itertuples():
        by_seed.setdefault(str(row.method), {})[int(row.seed)] = sign * float(row.value)
    return replace(
        column,
        agreement={
            key: order_agreement(by_seed, values_of(run.seed_sums[key]), same_networks=True)
            for key in _RETRAINED
        },
    )


def _resampled(columns: Iterable[Column]) -> str:
    """The thing that intervals of tau are over, in words."""
    several = any(
        len(seeds) > 1
        for column in columns
        for found in column.agreement.values()
        for seeds in found.seeds
    )
    return (
        "methods and seeds"
        if several
        else "methods, of one seed: the noise of training is not in it"
    )


def _networks(run: Run) -> str:
    """What the fine-tuned networks still get right on whole images, in words."""
    found = {
        title: per_method(run.records, metric).get("none")
        for metric, title in _TUNED_NETWORKS.items()
    }
    parts = [f"{percent(own.mean)} % ({title})" for title, own in found.items() if own is not None]
    if not parts:
        return ""
    before = "" if run.unmasked is None else f", before {percent(run.unmasked.mean)} %"
    return f"On whole test images they get {' and '.join(parts)} right{before}."


def _any(run: Run, names: Iterable[str]) -> bool:
    return bool(run.records["metric"].isin(list(names)).any())


def _randomised_layers(run: Run) -> list[str]:
    """Layers of the cascading randomisation, from the output on."""
    found = (
        record.layer
        for cell in run.cells("measure")
        for record in cell.records
        if record.metric == "weights_spearman"
    )
    return [str(layer) for layer in dict.fromkeys(found)]


def _sample(run: Run) -> int | None:
    """Number of test images that were measured; None before any cell is finished."""
    sizes = [len(cell.history) for cell in run.cells("measure")]
    return max(sizes) if sizes else None


def _spread(run: Run) -> str:
    """The thing that intervals of the section are over, in words."""
    seeds = {cell.spec.get("seed") for cell in run.cells("measure")}
    return "seeds, each with its own network" if len(seeds) > 1 else "the images, of one network"


def _shares(run: Run) -> dict[str, str]:
    """The shares of pixels that are removed, of the areas and of ROAD, in words."""
    steps = int(run.options.get("measure_steps", _USUAL_STEPS))
    road = [200 * step / steps for step in range(1, steps // 2)]
    few = [road[0], road[1], None, road[-1]] if len(road) > 4 else road
    shown = ", ".join("..." if share is None else f"{share:.3g}" for share in few)
    return {"area": f"{100 / steps:.3g} %", "road": f"{shown} %"}


def _permuted(run: Run) -> str | None:
    """The training accuracy of the network on permuted labels, in words; None without one."""
    rows = run.records[run.records["metric"] == "permuted_train_accuracy"]
    if rows.empty:
        return None
    chance = "" if run.chance is None else f", chance is {percent(run.chance)} %"
    return (
        f"At the end of its training the network with permuted labels got "
        f"{percent(float(rows['value'].mean()))} % of them right{chance}."
    )


def _chart(
    order: Sequence[Method],
    retrained: Mapping[str, float],
    score: str,
    ranking: Sequence[Column],
    randomised: Sequence[Column],
) -> Chart | None:
    every = {f"retrained {score}": retrained}
    every |= {column.metric.title: column.oriented for column in ranking}
    # One method alone has no rank.
    ranked = {title: values for title, values in every.items() if len(values) > 1}
    if not ranked and not randomised:
        return None
    kept = {
        column.layer or "labels permuted": {
            name: found.mean for name, found in column.by_method.items()
        }
        for column in randomised
    }
    figure = measures_figure({method.name: method.title for method in order}, ranked, kept)
    return chart(
        "Ranks, and what randomising leaves",
        figure,
        "Left: the rank of each method under each measure. Right: Spearman's correlation of its "
        "maps before and after the network was randomised",
    )
