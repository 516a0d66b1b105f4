"""Tables and paragraphs as text: within a terminal's width, or plain where there is none."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["aligned", "print_paragraph", "print_table"]

_BETWEEN = 2


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    total: bool = False,
) -> None:
    """Print a table whose first column is words, and whose others are numbers.

    In a terminal the first column is wrapped at its width. In a pipe or a file every row is one
    line, however long.

    Args:
        console: of the terminal, pipe or file.
        headings: of the columns; in a terminal, each may be wrapped at spaces.
        rows: a word for each column.
        total: the last row is the sum of the others.
    """
    if not console.is_terminal:
        print("\n".join(aligned([headings, *rows], numbers=True)), file=console.file)
        return
    table = Table(box=None, pad_edge=False, padding=(0, _BETWEEN, 0, 0))
    for place, heading in enumerate(headings):
        if place:
            widest = max((len(row[place]) for row in rows), default=0)
            least = max(widest, *map(len, heading.split() or [""]))
            table.add_column(heading, justify="right", vertical="bottom", min_width=least)
        else:
            table.add_column(heading, overflow="fold")
    for number, row in enumerate(rows):
        bold = total and number == len(rows) - 1
        table.add_row(*row, style="bold" if bold else None)
    console.print(table)


def print_paragraph(console: Console, heading: str, words: str) -> None:
    """Print a bold heading and a text behind it, wrapped at words in a terminal alone.

    Args:
        console: of the terminal, pipe or file.
        heading: of the paragraph.
        words: the text.
    """
    text = Text.assemble((f"{heading}:", "bold"), " ", words)
    console.print(text, soft_wrap=not console.is_terminal)


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Return rows as lines with the columns below each other.

    Args:
        rows: a word for each column.
        numbers: all columns but the first end below each other.

    >>> aligned([["name", "count"], ["centre", "5"]])
    ['name    count', 'centre  5']
    >>> aligned([["name", "count"], ["centre", "5"]], numbers=True)
    ['name    count', 'centre      5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        words = map(str.rjust if numbers else str.ljust, others, widths[1:])
        lines.append("  ".join((first.ljust(widths[0]), *words)).rstrip())
    return lines
