"""Content of the page of a run that measures a frozen network and retrains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reports.analysis.overview import SumsRow
from reports.figures.charts import Chart, chart
from reports.figures.drawing import forest
from reports.figures.styles import key, method_styles
from reports.formatting import counted, estimated_percent
from reports.measured.scores import SCORES, Scored, scored
from reports.measured.sentences import sentences
from reports.pages.measures import measures_context
from reports.pages.provenance import set_up, traced
from reports.records.estimates import Estimate, Sums, binomial_interval
from reports.records.run import GROUPS, Run

__all__ = ["measured_context"]

_ACCURACY = "pretrained_accuracy"


def measured_context(run: Run) -> dict[str, Any]:
    """Everything that ``measured.html.j2`` names.

    Args:
        run: as `reports.records.run.read_run` reads it; finished or not.
    """
    found = scored(run)
    rows = [SumsRow(method, Sums(None, None, None)) for method in run.methods.values()]
    own = sum(method.group != "control" for method in run.methods.values())
    first = found[0].methods if found else {}
    scores = [name for each in found for name in each.methods]
    measured = {cell.spec["method"] for cell in run.cells("measure")}
    left = [method for name, method in run.methods.items() if name not in measured]
    return {
        "run": run,
        "title": f"{counted(own, 'method')} without retraining: {run.subject}",
        "summary": list(_summary(run)),
        "found": found,
        "scores_there_are": [score.title for score in SCORES],
        "said": sentences(run, found),
        "order": [*first, *(name for name in dict.fromkeys(scores) if name not in first)],
        "left": left,
        "figures": [_forest(run, each) for each in found],
        "keys": {name: key(look) for name, look in method_styles(run.methods.values()).items()},
        **measures_context(run, rows, ""),
        "ranked_by": "",
        "groups": GROUPS,
        **set_up(run),
        "record_count": len(run.all_records),
        "traced": traced(run.all_records, run.variant),
    }


def _summary(run: Run) -> Iterator[str]:
    """The methods, images, network and its accuracy in a few sentences."""
    if run.dataset is None:
        yield "Nothing has been measured yet."
        return
    cells = run.cells("measure")
    images = max((len(cell.history) for cell in cells), default=0)
    data = run.data
    sides = data.get("size", ())
    size = "×".join(str(side) for side in sides)
    classes = len(data.get("classes", ()))
    yield (
        f"{counted(images, f'test {run.grid.sample}')} of {run.dataset}"
        + (f" ({counted(classes, 'class')}, {size} {run.grid.elements})" if data else "")
        + f", and the frozen network {run.network}, of which nothing was retrained."
    )
    accuracy = _accuracy(run)
    if accuracy is not None:
        share = estimated_percent(accuracy)
        yield f"It gets {share} of the test images right."
    own = [cell.spec.get("classes") == "own" for cell in run.cells("pretrained")]
    among = " among all of its classes, whatever those of the images" if any(own) else ""
    yield f"Maps explain the class that it predicts{among}."


def _accuracy(run: Run) -> Estimate | None:
    rows = run.records[run.records["metric"].isin([_ACCURACY, "accuracy"])]
    if rows.empty:
        return None
    values = rows["value"].tolist()
    mean = sum(values) / len(values)
    interval = binomial_interval(mean, run.data.get("test"))
    return Estimate(mean, interval, (None,), tuple(rows["cell"]))


def _forest(run: Run, found: Scored) -> Chart:
    against: Mapping[str, Mapping[str, Estimate]] = {
        reference: {
            # One point for a method, whose interval is over images.
            name: replace(each.estimate, seeds=(None,))
            for name, each in by_method.items()
        }
        for reference, by_method in found.differences.items()
        if by_method
    }
    title = found.score.title
    return chart(
        f"Differences of {title}, paired by image",
        forest(against, run.methods, order=list(found.methods), score=title, unmoved={}),
        f"Difference of {title} from each reference, a point and an interval a method",
    )
