"""The table of a run without retraining as Markdown, with what it says, for pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reports.formatting import counted, headed, markdown_table, score, spread
from reports.marks import Marks
from reports.measured.scores import REFERENCES, Scored, scored
from reports.measured.sentences import sentences, title_of
from reports.records.run import Run, read_run

__all__ = ["MARKS", "RUN", "short", "table"]

RUN = Path(__file__).parents[1] / "runs" / "imagenette-lite0"
MARKS = Marks(
    "<!-- table of photographs: python -m reports.measured -->",
    "<!-- end of the table of photographs -->",
    "the table of photographs",
)
# Of the scores that have a column and a sentence.
_SHOWN = ("area", "road")


def table(folder: Path = RUN) -> str:
    """The table of a run and a sentence or two on each of its two scores, as Markdown.

    Args:
        folder: of the run, or of an archive of it.

    Raises:
        ValueError: no two methods have a score.
    """
    run = read_run(folder)
    found = [each for each in scored(run) if each.score.key in _SHOWN]
    if not found:
        raise ValueError(f"{folder}: no two methods have a score of {' or '.join(_SHOWN)}")
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
    found = [each for each in scored(run) if each.score.key in _SHOWN]
    lines = [_told_of_first(run, each) for each in found if REFERENCES[0] in each.methods]
    if not lines:
        raise ValueError(f"{folder}: no score of {REFERENCES[0]} and another method")
    return "\n".join(lines)


def _told_of_first(run: Run, found: Scored) -> str:
    first = REFERENCES[0]
    groups: dict[str, list[str]] = {"told above": [], "not told from": [], "told below": []}
    for name in found.methods:
        if name != first:
            difference = _from_first(found, name)
            way = "above" if difference is not None and difference < 0 else "below"
            place = "not told from" if difference is None else f"told {way}"
            groups[place].append(title_of(run.methods[name]))
    own = found.methods[first].estimate
    said = "; ".join(f"{way} {', '.join(names)}" for way, names in groups.items() if names)
    title = title_of(run.methods[first])
    return f"- {headed(found.score.title)}: {title} {score(own.mean)}{spread(own, 1, 3)}; {said}."


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
    said = f"{score(own.estimate.mean)}{spread(own.estimate, 1, 3)}"
    difference = _from_first(found, name)
    if difference is None:
        return said
    return f"{said} {'▲' if difference > 0 else '▼'}"


def _from_first(found: Scored, name: str) -> float | None:
    """The difference from the first reference, if it is told."""
    first = REFERENCES[0]
    own = found.differences.get(first, {}).get(name)
    if own is not None:
        return own.estimate.mean if own.told else None
    # Two references are compared once, as the later one's.
    other = found.differences.get(name, {}).get(first)
    return -other.estimate.mean if other is not None and other.told else None
