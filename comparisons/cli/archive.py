"""The command ``python -m comparisons archive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from comparisons.runs.archive import Archived, archive_run
from comparisons.runs.session import one_message
from evaluation.storage.archive import CELLS
from reports.formatting import counted

__all__ = ["FROM", "archive"]

FROM = typer.Option(
    "--from",
    help="An archive whose finished cells are taken over; without other options of the plan its "
    "plan is taken too.",
)

_console = Console(highlight=False)


def archive(
    run: Annotated[Path, typer.Argument(help="Folder of a run of any kind, finished or not.")],
    to: Annotated[
        Path, typer.Option(help="Folder of the archive; an older one of the same run is replaced.")
    ],
    maps: Annotated[
        bool,
        typer.Option(
            help="Of a run that is not complete, keep the maps that its other cells read; if not, "
            "they are made again."
        ),
    ] = True,
) -> None:
    """Make four files of a run: plan.json, records.parquet, cells.zip and report.html."""
    with one_message(_console, run):
        found = archive_run(run, to, maps=maps)
    _console.print(_summary(found), soft_wrap=True, markup=False)


def _summary(found: Archived) -> str:
    total = _mib(sum(found.sizes.values()))
    said = f"Archive: {found.place}, {counted(found.cells, 'cell')}, {total}"
    inside = [f"{CELLS} {_mib(found.sizes[CELLS])}"]
    if found.models_bytes:
        inside.append(f"of that networks {_mib(found.models_bytes)}")
    if found.maps_bytes:
        inside.append(f"maps {_mib(found.maps_bytes)}")
    said += f" ({', '.join(inside)})"
    if found.left:
        said += f"; {counted(found.left, 'cell')} left to run"
    if found.old_page:
        said += "; report.html is the one that was there: the images that it describes are gone"
    return said


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"
