"""The table of cheaper settings as Markdown, and a recommendation in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evaluation.profiling.timing import Interval
from reports.formatting import estimated, headed, markdown_table
from reports.marks import Marks
from reports.settings.rows import CENTRE, NETWORKS, QUALITIES, Measured, Row

__all__ = ["ABSENT", "MARKS", "recommended", "table"]

MARKS = Marks(
    "<!-- table of settings: python -m reports.settings -->",
    "<!-- end of the table of settings -->",
    "the table of settings",
)
ABSENT = "not measured"
_SIGNS = {"above": " ▲", "below": " ▼", "not told": "", "": ""}


def table(rows: Sequence[Row]) -> str:
    """The table, and the recommendation below it.

    Args:
        rows: as `reports.settings.rows.rows` gives them.
    """
    added = [f"added time, {title} (%)" for title in NETWORKS.values()]
    lines = [["setting", *added, *(quality.title for quality in QUALITIES)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        alone = row.method == CENTRE
        times = ["" if alone else _time(row.added.get(name)) for name in NETWORKS]
        lines.append([row.words, *times, *(_quality(row, each.key) for each in QUALITIES)])
    made = markdown_table(lines)
    return "\n\n".join([made, *recommended(rows)])


def recommended(rows: Sequence[Row]) -> Iterator[str]:
    """Sentences on each quality, and on what to take, as far as it was measured.

    Args:
        rows: of the table.
    """
    settings = [row for row in rows if row.method != CENTRE]
    lines: list[str] = []
    for quality in QUALITIES:
        told: dict[str, list[str]] = {"below": [], "above": [], "not told": []}
        for row in settings:
            own = row.qualities.get(quality.key)
            if own is not None and own.verdict:
                told[own.verdict].append(row.words)
        said = [
            f"told {way} the default: {', '.join(told[way])}"
            for way in ("below", "above")
            if told[way]
        ]
        said += [f"not told from it: {', '.join(told['not told'])}"] if told["not told"] else []
        pairs = f"paired by {quality.unit}"
        if said:
            lines.append(f"- {headed(quality.title)} ({pairs}): {'; '.join(said)}.")
    if lines:
        yield "\n".join(lines)
    dearer = [row for row in settings[1:] if _dearer(row, settings[0])]
    if dearer:
        words = ", ".join(row.words for row in dearer)
        yield f"- Dearer than the default on every network that was timed, not cheaper: {words}."
    as_good = [
        row
        for row in settings[1:]
        if row not in dearer
        and row.qualities
        and not any(own.verdict == "below" for own in row.qualities.values())
    ]
    complete = all(len(row.qualities) == len(QUALITIES) for row in settings)
    if any(row.qualities for row in settings[1:]):
        short = "" if complete else " Qualities that read not measured are left out of this."
        if as_good:
            words = " or ".join(row.words for row in as_good)
            better = "".join(
                f", and {row.words} is told above it in {quality.title}"
                for quality in QUALITIES
                for row in as_good
                if (own := row.qualities.get(quality.key)) is not None and own.verdict == "above"
            )
            yield (
                f"**No quality tells {words} below the default**{better}: take the one that costs "
                f"least on your network.{short}"
            )
        else:
            yield (
                "**Take the default where quality counts**: each setting that is not dearer and "
                f"was measured is told below it in some quality.{short}"
            )


def _dearer(row: Row, default: Row) -> bool:
    """True if the interval of each network's added time lies above the default's."""
    both = row.added.keys() & default.added.keys()
    return bool(both) and all(row.added[name].low > default.added[name].high for name in both)


def _time(found: Interval | None) -> str:
    if found is None:
        return ABSENT
    return f"{found.median:.1f} ({found.low:.1f} to {found.high:.1f})"


def _quality(row: Row, key: str) -> str:
    own: Measured | None = row.qualities.get(key)
    if own is None:
        return ABSENT
    return f"{estimated(own.value)}{_SIGNS[own.verdict]}"
