"""The command ``python -m reports.costs [RUN] [--into PAGE] [--batches]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.costs.batches import BATCH_MARKS, tables_by_batch
from reports.costs.table import MARKS, RUN, table

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[
        Path,
        typer.Argument(
            show_default="reports/runs/profile",
            help="Folder with the records.parquet of python -m comparisons profile; the files of "
            "python -m comparisons deployment are read from the folder deployment beside it.",
        ),
    ] = RUN,
    into: Annotated[
        Path | None, typer.Option(help="Page that gets the table between its two marks.")
    ] = None,
    batches: Annotated[
        bool,
        typer.Option("--batches", help="The tables of docs/results/costs.md: all batches."),
    ] = False,
) -> None:
    """Print the README's table of costs, made from recorded files; measures nothing."""
    marks, make = (BATCH_MARKS, tables_by_batch) if batches else (MARKS, table)
    marks.deliver(lambda: make(run), into)


if __name__ == "__main__":
    app(prog_name="python -m reports.costs")
