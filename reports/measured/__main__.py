"""The command ``python -m reports.measured [RUN] [--short] [--into PAGE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.measured.table import MARKS, RUN, short, table

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[
        Path,
        typer.Argument(
            show_default="reports/runs/imagenette-lite0",
            help="Folder or archive of a run of python -m comparisons run --modes none.",
        ),
    ] = RUN,
    into: Annotated[
        Path | None, typer.Option(help="Page that gets the table between its two marks.")
    ] = None,
    only_short: Annotated[
        bool, typer.Option("--short", help="Print a line a score in place of the table.")
    ] = False,
) -> None:
    """Print the table of a run without retraining, and what it says; measures nothing."""
    MARKS.deliver(lambda: short(run) if only_short else table(run), into)


if __name__ == "__main__":
    app(prog_name="python -m reports.measured")
