"""The page of a run as one self-contained HTML file, and its records as tables."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.storage.records import METRICS
from evaluation.storage.run_files import RunFolder
from evaluation.storage.writing import write_atomically
from reports.analysis.answers import answers
from reports.analysis.certainty import certainty
from reports.analysis.common_seeds import common_ranking, in_order
from reports.analysis.overview import (
    best_places,
    headline,
    ranked_by,
    ranked_sums,
    summary,
    time_metric,
)
from reports.analysis.rank_agreement import agreements
from reports.analysis.ranking_changes import ranking_changes
from reports.analysis.replacement import replacements, verdict
from reports.changes.sentences import changes
from reports.figures.charts import cost_charts, curve_charts, forest_chart, mask_only_charts
from reports.figures.styles import key, method_styles
from reports.formatting import counted
from reports.pages.costs import costs_context
from reports.pages.layers import layers_context
from reports.pages.measured import measured_context
from reports.pages.measures import COMPLEXITY, measures_context
from reports.pages.pictures import pictures_context
from reports.pages.pitfalls import pitfalls
from reports.pages.provenance import set_up, traced
from reports.pages.rendering import rendered
from reports.records.estimates import SCORE_TITLES, levels, per_method
from reports.records.reading import read_run
from reports.records.run import GROUPS, Method, Run

__all__ = ["build", "render", "write_records"]

# Costs that have a column only if some cell measured them.
_MAYBE_UNMEASURED = (
    *("train_images_per_s", "attribution_images_per_s", "overhead_percent", "first_ms"),
    *("map_elementwise", "map_transcendental", "map_reduction", "scratch_bytes"),
    *("allocated_bytes", "forward_bytes"),
)
# Units of the first table of costs; counts have a table of their own.
_TIMES = ("ms", "images/s", "%")
_REFERENCE = Method("none", "No saliency map (reference)", "", {}, "control")


def build(
    run: Path, out: Path | None = None, *, csv: bool = False, since: Path | None = None
) -> Path:
    """Write ``report.html`` and ``records.parquet`` of a run, and ``records.csv`` of its folder.

    Values that were not measured yet read "not measured". Each file is replaced in one step.
    Pictures whose maps or images are gone stay those of the ``report.html`` that `run` has.

    Args:
        run: the run's folder, finished or not, or an archive of it.
        out: folder of the files; None for `run` itself.
        csv: write ``records.csv`` of an archive too.
        since: an earlier run or an archive of it; the page says what changed since then.

    Returns:
        The page.

    Raises:
        FileNotFoundError: `run` or `since` holds neither a plan nor a finished cell.
        ValueError: its plan is no plan, the archive is damaged, or the two have no score in common.
    """
    content = read_run(run)
    earlier = None if since is None else read_run(since)
    for warning in content.warnings:
        warnings.warn(f"{run}: {warning}", stacklevel=2)
    place = run if out is None else out
    html = render(content, earlier)
    if csv or isinstance(content.files, RunFolder):
        frame = content.table
        write_atomically(place / "records.csv", lambda file: frame.to_csv(file, index=False))
    write_records(content, place)
    page = place / "report.html"
    write_atomically(page, lambda file: file.write(html.encode()))
    return page


def write_records(run: Run, place: Path) -> None:
    """Write ``records.parquet``, one row a record; those of costs have further columns.

    Args:
        run: as `read_run` reads it.
        place: folder of the file.
    """
    frame = run.table
    write_atomically(place / "records.parquet", lambda file: frame.to_parquet(file, index=False))


def render(run: Run, earlier: Run | None = None) -> str:
    """The page of a run as HTML text.

    Args:
        run: as `read_run` reads it.
        earlier: another run, likewise; the page says what changed since then.

    Returns:
        A whole document, with figures and pictures as data URIs.

    Raises:
        ValueError: the two runs have no score in common.
    """
    if run.kind == "layers":
        template, context = "layers.html.j2", layers_context(run)
    elif run.kind == "profile":
        template, context = "profile.html.j2", costs_context(run)
    elif run.measures_alone:
        template, context = "measured.html.j2", measured_context(run)
    else:
        template, context = "page.html.j2", _context(run)
    if earlier is not None:
        context |= {"changed": changes(run, earlier), "since": earlier.files.root.name}
    return rendered(template, context)


def _context(run: Run) -> dict[str, Any]:
    mask_only_columns = sorted({place[1:] for place in run.mask_only_accuracies}, reverse=True)
    mask_only_at = mask_only_columns[0] if mask_only_columns else None
    sure = certainty(run, ranked_sums(run))
    common = common_ranking(run, sure.rows, sure.ranked_by)
    rows = in_order(sure.rows, common)
    sure = replace(sure, rows=rows)
    costs = {
        metric.name: per_method(run.records, metric.name)
        for metric in METRICS.values()
        if metric.unit != "1" and metric.name not in COMPLEXITY
    }
    return {
        "run": run,
        "title": f"ROAR and KAR of {_methods(run)}: {run.subject}",
        "summary": summary(run),
        "answers": answers(run, sure, common, costs),
        "common": common,
        "headline": headline(run, common.rows, mask_only_at, costs),
        "ranked_by": ranked_by(rows),
        "mask_only_at": mask_only_at,
        "time_metric": time_metric(costs),
        "curves": curve_charts(run),
        "keys": {name: key(look) for name, look in method_styles(run.methods.values()).items()},
        "sums": rows,
        "certainty": sure,
        "agreements": agreements(run),
        "forest": forest_chart(run, sure),
        "replaced": replacements(run),
        "verdict": verdict,
        "accuracies": run.accuracies,
        "levels": levels(run.records, run.chance),
        "best": best_places(run),
        "unmasked": run.unmasked,
        "measured": sum(place[2] in run.fractions for place in run.accuracies),
        "planned": len(run.methods) * len(run.modes) * len(run.fractions),
        "mask_only": run.mask_only_accuracies,
        "mask_only_columns": mask_only_columns,
        "mask_only_charts": list(mask_only_charts(run)),
        "pitfalls": pitfalls(run),
        **pictures_context(run),
        "costs": costs,
        "cost_metrics": [
            [
                METRICS[name]
                for name, by in costs.items()
                if (by or name not in _MAYBE_UNMEASURED) and (METRICS[name].unit in _TIMES) == timed
            ]
            for timed in (True, False)
        ],
        "cost_methods": [
            *([_REFERENCE] if any("none" in by for by in costs.values()) else []),
            *run.methods.values(),
        ],
        "changes": ranking_changes(run),
        "cost_charts": list(cost_charts(run, rows, costs)),
        **measures_context(run, common.rows, ranked_by(rows)),
        "score_titles": SCORE_TITLES,
        "groups": GROUPS,
        **set_up(run),
        "record_count": len(run.all_records),
        "traced": traced(run.all_records, run.variant),
    }


def _methods(run: Run) -> str:
    own = sum(method.group != "control" for method in run.methods.values())
    return counted(own, "method")
