"""The command ``python -m reports RUN [--out DIR]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.pages.build import build

__all__ = ["app"]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="Directory of a finished or partly finished run.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the files go; the run's directory by default.")
    ] = None,
) -> None:
    """Write report.html, records.csv and records.parquet of a run."""
    try:
        page = build(run, out)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)


if __name__ == "__main__":
    app(prog_name="python -m reports")
