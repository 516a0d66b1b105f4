"""The table of a run of ROAR and KAR as Markdown, with what it says, for pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from reports.analysis.answers import verdicts
from reports.analysis.certainty import Certainty, certainty
from reports.analysis.common_seeds import common_ranking, in_order, score_of
from reports.analysis.overview import SumsRow, ranked_sums
from reports.formatting import counted, estimated, markdown_table, percent, share
from reports.marks import Marks
from reports.records.estimates import SCORE_TITLES, Estimate
from reports.records.reading import read_run
from reports.records.run import Run
from reports.verdicts import named, title_of, told_of

__all__ = ["MARKS", "table"]

MARKS = Marks(
    "<!-- table of retraining: python -m reports.retrained -->",
    "<!-- end of the table of retraining -->",
    "the table of retraining",
)
_ABSENT = "not measured"
_DISK = "centre"


def table(folder: Path) -> str:
    """KAR, ROAR and SUM of a run's methods, and what is told from its controls, as Markdown.

    Args:
        folder: of the run, or of an archive of it.

    Raises:
        ValueError: no method has all fractions of a mode.
    """
    run = read_run(folder)
    sure = certainty(run, ranked_sums(run))
    rows = in_order(sure.rows, common_ranking(run, sure.rows, sure.ranked_by))
    begun = [row for row in rows if row.score is not None]
    if not begun:
        raise ValueError(f"{folder}: no method has every fraction of a mode, with one seed or more")
    left = [title_of(row.method) for row in rows if row not in begun]
    made = markdown_table(_lines(run, sure, begun))
    said = "\n".join(
        f"- {title}: {' '.join(_of_score(sure, key))}" for key, title in SCORE_TITLES.items()
    )
    if left:
        said += f"\n- Not measured yet: {', '.join(left)}."
    return f"{made}\n\n{_about(run, sure)}\n\n{said}"


def _lines(run: Run, sure: Certainty, rows: Sequence[SumsRow]) -> Iterator[list[str]]:
    """The table's cells: the sums, the difference from the disk, seeds, and the masks alone."""
    at = max((place[1:] for place in run.mask_only_accuracies), default=None)
    # The bar that a method has to clear.
    over_disk = sure.against.get(_DISK, {})
    head = ["", *SCORE_TITLES.values()]
    head += [f"{sure.score} less {named(run.methods[_DISK].title)}'s"] if over_disk else []
    head += ["seeds"]
    head += [] if at is None else [f"masks alone, {at[0].upper()} {share(at[1])}"]
    yield head
    yield ["---"] * len(head)
    for row in rows:
        name, found = row.method.name, [score_of(row.sums, key) for key in SCORE_TITLES]
        cells = [row.method.title, *map(_unbroken, found)]
        if over_disk:
            entry = over_disk.get(name)
            own = None if entry is None else score_of(entry.sums, sure.ranked_by)
            cells.append("" if row.method.group == "control" else _unbroken(own))
        cells.append(str(max((len(own.seeds) for own in found if own is not None), default=0)))
        if at is not None:
            alone = run.mask_only_accuracies.get((name, *at))
            cells.append(_ABSENT if alone is None else f"{percent(alone.mean)} %")
        yield cells


def _cell(own: Estimate | None) -> str:
    return _ABSENT if own is None else estimated(own)


def _unbroken(own: Estimate | None) -> str:
    """A cell that a narrow column does not break at its ±."""
    cell = _cell(own)
    return cell if own is None else cell.replace(" ", "\N{NO-BREAK SPACE}")


def _about(run: Run, sure: Certainty) -> str:
    """The networks, the scores and their intervals in a paragraph."""
    levels = {"unmasked": None if run.unmasked is None else run.unmasked.mean, "chance": run.chance}
    known = ", ".join(
        f"{name} {percent(level)} %" for name, level in levels.items() if level is not None
    )
    shares = ", ".join(share(fraction) for fraction in run.fractions)
    images = f" and {sure.images:,} test images" if sure.images else ""
    return (
        f"{counted(run.networks_trained, 'network')} trained from scratch"
        f"{f' ({known})' if known else ''}. KAR is the sum of the accuracies with {shares} of the "
        "pixels kept, ROAR minus the sum with as many removed, SUM both: higher is better. ± is "
        f"half of a 95 % interval over seeds{images}; told is a p below 0.05 after Holm's "
        "correction, and an interval without 0."
    )


def _of_score(sure: Certainty, key: str) -> Iterator[str]:
    methods = {row.method.name: row.method for row in sure.rows}
    scored = {
        row.method.name: own
        for row in sure.rows
        if (own := score_of(row.sums, key)) is not None and row.method.group != "control"
    }
    if scored:
        best = max(scored, key=lambda name: scored[name].mean)
        yield (
            f"the best of {counted(len(scored), 'method')} is {title_of(methods[best])}, "
            f"{_cell(scored[best])}."
        )
    for reference, found in verdicts(sure, key).items():
        in_turn = {name: found[name] for name in scored if name in found}
        yield from told_of(in_turn, methods, named(methods[reference].title))
    single = [title_of(methods[name]) for name, own in scored.items() if len(own.seeds) < 2]
    if single:
        yield f"One seed, not tested: {', '.join(single)}."
