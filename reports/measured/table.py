"""The table of a run without retraining as Markdown, with what it says, for pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.formatting import counted, estimated, headed, markdown_table
from reports.marks import Marks
from reports.measured.scores import MAIN_SCORES, REFERENCES, Scored, scored
from reports.measured.sentences import sentences
from reports.records.reading import read_run
from reports.records.run import Run
from reports.verdicts import Verdict, title_of

__all__ = ["MARKS", "RUN", "short", "table"]

RUN = Path(__file__).parents[1] / "runs" / "imagenette-lite0"
MARKS = Marks(
    "<!-- table of photographs: python -m reports.measured -->",
    "<!-- end of the table of photographs -->",
    "the table of photographs",
)
_SAID_OF_FIRST: tuple[Verdict, ...] = ("told above", "not told from", "told below")


def table(folder: Path = RUN) -> str:
    """The table of a run and a sentence or two on each of its two scores, as Markdown.

    Args:
        folder: of the run, or of an archive of it.

    Raises:
        ValueError: no two methods have a score.
    """
    run = read_run(folder)
    found = [each for each in scored(run) if each.score.key in MAIN_SCORES]
    if not found:
        raise ValueError(f"{folder}: no two methods have a score of {' or '.join(MAIN_SCORES)}")
    head = ["", *(headed(each.score.title) for each in found)]
    order = list(dict.fromkeys(name for each in found for name in each.methods))
    lines = [head, ["---"] * len(head)]
    lines += [[run.methods[name].title, *(_cell(each, name) for each in found)] for name in order]
    made = markdown_table(lines)
    said = "\n".join(f"- {headed(each.score)}: {each.text}" for each in sentences(run, found))
    return f"{made}\n\n{_about(run, found)}\n\n{said}"


def short(folder: Path = RUN) -> str:
    """A line on each of a run's two scores: the first reference's, and what it is told from.

    Args:
        folder: of the run, or of an archive of it.

    Raises:
        ValueError: the run does not have the first reference, or nothing beside it.
    """
    run = read_run(folder)
    found = [each for each in scored(run) if each.score.key in MAIN_SCORES]
    lines = [_told_of_first(run, each) for each in found if REFERENCES[0] in each.methods]
    if not lines:
        raise ValueError(f"{folder}: no score of {REFERENCES[0]} and another method")
    return "\n".join(lines)


def _told_of_first(run: Run, found: Scored) -> str:
    first = REFERENCES[0]
    groups: dict[Verdict, list[str]] = {verdict: [] for verdict in _SAID_OF_FIRST}
    for name in found.methods:
        # Said of the first reference: what it is above is below it.
        if (own := found.difference(name, first)) is not None:
            groups[own.turned.verdict].append(title_of(run.methods[name]))
    own_score = found.methods[first].estimate
    said = "; ".join(f"{verdict} {', '.join(names)}" for verdict, names in groups.items() if names)
    title = title_of(run.methods[first])
    figure = estimated(own_score)
    return f"- {headed(found.score.title)}: {title} {figure}; {said}."


def _about(run: Run, found: Sequence[Scored]) -> str:
    images = min(len(own.images) for each in found for own in each.methods.values())
    first = REFERENCES[0]
    mark = (
        f" ▲ and ▼ are told above and below {run.methods[first].title}, in pairs of an image after "
        "Holm's correction."
        if first in run.methods
        else ""
    )
    return f"{counted(images, 'image')}, higher is better, ± half of a 95 % interval.{mark}"


def _cell(found: Scored, name: str) -> str:
    own = found.methods.get(name)
    if own is None:
        return "not measured"
    said = estimated(own.estimate)
    difference = found.difference(name, REFERENCES[0]) if REFERENCES[0] in found.methods else None
    if difference is None or not difference.told:
        return said
    return f"{said} {'▲' if difference.verdict == 'told above' else '▼'}"
