"""Content of the page of a run inside the network, with the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from scipy import stats

from fastsal.maps.prior import PRIOR_WEIGHTS
from reports.analysis.layer_tables import MODES, RANDOM, LayerTable, measured, printed
from reports.figures.charts import Chart, chart
from reports.figures.layers import accuracy_figure, difference_figure
from reports.formatting import counted, estimated_percent, slug, trace
from reports.pages.provenance import set_up, traced
from reports.paper import DATASETS, ERRATA, TITLES, table_1
from reports.records.run import GROUPS, Run

__all__ = ["layers_context"]

_WEIGHED = "smoe_scale"
_FEWEST_RANKED = 3


def layers_context(run: Run) -> dict[str, Any]:
    """Everything that ``layers.html.j2`` names.

    Args:
        run: as `reports.records.run.read_run` reads it; finished or not.
    """
    statistics = [name for name in run.methods if name != RANDOM]
    table = measured(run.records, run.layers, statistics)
    titles = {name: method.title for name, method in run.methods.items()}
    papers = {dataset: printed(dataset) for dataset in DATASETS}
    return {
        "run": run,
        "title": f"Inside the network: {run.subject}",
        "summary": _summary(run, table),
        "table": table,
        "titles": titles,
        "modes": MODES,
        "random": RANDOM,
        "fractions": run.options.get("locations", {}),
        "information": {name: table.information(name, run.log_base) for name in table.statistics},
        "base_name": "e" if run.log_base is None else f"{run.log_base:g}",
        "link": {
            (name, mode, layer): _link(run, name, mode, layer)
            for name in run.methods
            for mode in MODES
            for layer in run.layers
        },
        "papers": papers,
        "paper_titles": {name: name for name in papers["ImageNet"].statistics}
        | {RANDOM: TITLES[RANDOM]},
        "paper_scores": _paper_scores(papers),
        "paper_name": TITLES,
        "agreement": _agreement(table, papers),
        "figures": _figures(run, table, titles),
        "paper_figures": {name: _paper_figures(name) for name in papers},
        "weights": [(layer, table.difference(_WEIGHED, [layer])) for layer in run.layers],
        "prior": PRIOR_WEIGHTS,
        "prior_scores": [
            papers["ImageNet"].difference(TITLES[_WEIGHED], [layer])
            for layer in papers["ImageNet"].layers
        ],
        "unmasked": run.unmasked,
        "groups": GROUPS,
        **set_up(run),
        "record_count": len(run.all_records),
        "traced": traced(run.all_records, run.variant),
    }


def _summary(run: Run, table: LayerTable) -> list[str]:
    if not table.by_seed:
        return ["Nothing is measured yet."]
    seeds = len(table.by_seed)
    shares = run.options.get("locations", {})
    passed = {mode: f"{100 * shares[mode]:g} %" for mode in MODES if mode in shares}
    sentences = [
        f"One scale of {run.network} at a time is masked on {run.dataset}, and what comes after it "
        f"fine-tuned: KAR lets the {passed.get('kar', '')} most salient locations through, ROAR "
        f"the {passed.get('roar', '')} least salient.",
        f"{counted(seeds, 'seed')}{', so that no number has an interval' if seeds == 1 else ''}.",
    ]
    if run.unmasked is not None:
        whole = run.unmasked
        sentences.append(f"Unmasked: {estimated_percent(whole)}.")
    best = [name for name in table.ranked if table.difference(name) is not None]
    if best:
        said = f"Highest difference score: {run.methods[best[0]].title}"
        lead = table.lead(*best[:2]) if len(best) > 1 else None
        if lead is not None:
            told = "told" if lead.excludes_zero else "not told"
            said += f", {told} from the next, {run.methods[best[1]].title}"
        sentences.append(f"{said}.")
    return sentences


def _link(run: Run, name: str, mode: str, layer: str) -> str:
    fraction = run.options.get("locations", {}).get(mode)
    return f"{trace('accuracy', name, mode, fraction)}-{slug(layer)}"


def _paper_scores(papers: Mapping[str, LayerTable]) -> list[dict[str, Any]]:
    """Rows of Table 1: the printed scores, and those that Eq 8 gives for Table 4."""
    rows = []
    for name, line in table_1().iterrows():
        made = {dataset: table.difference(str(name)) for dataset, table in papers.items()}
        rows.append(
            {
                "name": name,
                "printed": {dataset: line[f"difference_{dataset.lower()}"] for dataset in DATASETS},
                "made": {dataset: found.mean for dataset, found in made.items() if found},
                "erratum": name in ERRATA,
                "information": line["information_imagenet"],
            }
        )
    return rows


def _agreement(table: LayerTable, papers: Mapping[str, LayerTable]) -> list[dict[str, Any]]:
    """Kendall's tau between our order of the statistics and the paper's on each data set."""
    ours = {
        TITLES[name]: score.mean
        for name in table.statistics
        if name in TITLES and (score := table.difference(name)) is not None
    }
    found = []
    for dataset, paper in papers.items():
        pairs = [
            (value, score.mean)
            for name, value in ours.items()
            if (score := paper.difference(name)) is not None
        ]
        if len(pairs) >= _FEWEST_RANKED:
            tau = stats.kendalltau([a for a, _ in pairs], [b for _, b in pairs])
            found.append(
                {
                    "dataset": dataset,
                    "tau": float(tau.statistic),
                    "p": float(tau.pvalue),
                    "count": len(pairs),
                }
            )
    return found


def _figures(run: Run, table: LayerTable, titles: Mapping[str, str]) -> list[Chart]:
    if not table.by_seed:
        return []
    base = None if run.unmasked is None else run.unmasked.mean
    return [
        chart(
            "Accuracy",
            accuracy_figure(table, titles, base, run.chance),
            "Accuracy after masking each scale, a line a statistic; the table below has them",
        ),
        chart(
            "Difference from random",
            difference_figure(table, titles),
            "Difference score of each scale, a line a statistic",
        ),
    ]


@cache
def _paper_figures(dataset: str) -> tuple[Chart, Chart]:
    table = printed(dataset)
    titles = {name: name for name in table.statistics} | {RANDOM: TITLES[RANDOM]}
    return (
        chart(
            f"{dataset}: accuracy",
            accuracy_figure(table, titles),
            f"The paper's accuracies on {dataset}, a line a statistic",
        ),
        chart(
            f"{dataset}: difference from random",
            difference_figure(table, titles),
            f"The paper's difference score of each scale on {dataset}",
        ),
    )
