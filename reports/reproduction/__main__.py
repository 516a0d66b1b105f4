"""The command ``python -m reports.reproduction [RUN ...] [--out DIR]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.reproduction.page import build, committed_runs

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...",
            help="Folders or archives of runs of python -m comparisons (run, layers or profile); "
            "by default the recorded runs in reports/runs/.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("runs/reproduction"),
) -> None:
    """Write the paper's claims beside our figures: report.html, records.csv, records.parquet."""
    try:
        page = build(runs or committed_runs(), out)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)


if __name__ == "__main__":
    app(prog_name="python -m reports.reproduction")
