"""Changes between two runs as a list in Markdown, for pages."""

from __future__ import annotations

from pathlib import Path

from reports.changes.sentences import changes
from reports.marks import Marks
from reports.records.reading import read_run

__all__ = ["MARKS", "listed"]

MARKS = Marks(
    "<!-- what changed: python -m reports.changes -->",
    "<!-- end of what changed -->",
    "what changed",
)


def listed(run: Path, earlier: Path) -> str:
    """The changes between two runs as a list in Markdown.

    Args:
        run: folder or archive of the later run.
        earlier: of the earlier one.

    Raises:
        ValueError: the two runs have no score in common.
    """
    found = changes(read_run(run), read_run(earlier))
    return "\n".join(f"- {each.score}: {each.text}" for each in found)
