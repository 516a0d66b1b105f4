"""The command ``python -m reports.settings [--into PAGE] [--picture FILE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.figures.drawing import write_svg
from reports.settings.picture import picture
from reports.settings.rows import RUNS, Runs, rows
from reports.settings.table import MARKS, table

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    costs: Annotated[
        Path, typer.Option(help="Archive of python -m comparisons profile.", show_default=False)
    ] = RUNS.costs,
    shapes: Annotated[
        Path, typer.Option(help="Archive of a comparison on shapes.", show_default=False)
    ] = RUNS.shapes,
    photographs: Annotated[
        Path, typer.Option(help="Archive of a comparison of --modes none.", show_default=False)
    ] = RUNS.photographs,
    into: Annotated[
        Path | None, typer.Option(help="Page that gets the table between its two marks.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--picture", help="SVG file for the picture.")] = None,
) -> None:
    """Print what cheaper settings of SMOE Scale cost and are worth; measures nothing."""
    try:
        found = rows(Runs(costs, shapes, photographs))
        made = table(found)
        drawn = None if to is None else picture(found)
        if into is not None:
            MARKS.write(into, made)
    except (OSError, ValueError, KeyError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if to is not None and drawn is not None:
        write_svg(to, drawn)
    if into is None and to is None:
        typer.echo(made)


if __name__ == "__main__":
    app(prog_name="python -m reports.settings")
