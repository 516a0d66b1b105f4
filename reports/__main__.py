"""The command ``python -m reports RUN [--out DIR] [--csv]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.pages.build import build

__all__ = ["app"]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or an archive of one.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go; the run's directory by default.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write records.csv of an archive too.")
    ] = False,
) -> None:
    """Write report.html and records.parquet of a run, and of its own folder records.csv."""
    try:
        page = build(run, out, csv=csv)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)


if __name__ == "__main__":
    app(prog_name="python -m reports")
