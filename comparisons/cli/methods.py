"""The command ``python -m comparisons methods``."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from comparisons.methods import METHODS
from comparisons.methods.base import Method
from comparisons.text_tables import aligned

__all__ = ["methods"]

_console = Console(highlight=False)
_HEADINGS = ("name", "method", "group", "citation", "parameters")


def methods() -> None:
    """List every method with its citation and parameters.

    In a pipe or a file, each is one line of columns.
    """
    if _console.is_terminal:
        for group, members in groupby(METHODS.values(), lambda entry: entry.group):
            _console.print(Text(group, "bold"))
            _console.print(Padding(_listed(list(members)), (0, 0, 1, 2)))
        return
    rows = [
        (entry.name, entry.title, entry.group, entry.citation, _parameters(entry))
        for entry in METHODS.values()
    ]
    print("\n".join(aligned([_HEADINGS, *rows])), file=_console.file)


def _listed(entries: list[Method]) -> Table:
    """Return a table of a group: the name, and beside it what is known in lines."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for entry in entries:
        words = Text(f"{entry.title}: {entry.citation}")
        if entry.parameters:
            words.append(f"\n{_parameters(entry)}", "dim")
        table.add_row(entry.name, words)
    return table


def _parameters(entry: Method) -> str:
    return ", ".join(f"{key}={value}" for key, value in entry.parameters.items())
