"""The command ``python -m comparisons methods``."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from comparisons.methods import METHODS

__all__ = ["methods"]

_console = Console(highlight=False)


def methods() -> None:
    """List every method with its citation and parameters."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "method", "group", "citation", "parameters"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in METHODS.values():
        parameters = ", ".join(f"{key}={value}" for key, value in entry.parameters.items())
        table.add_row(entry.name, entry.title, entry.group, entry.citation, parameters)
    _console.print(table)
