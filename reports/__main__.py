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
        Path | None, typer.Option(help="Folder of the files; the run's own by default.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write records.csv of an archive too.")
    ] = False,
) -> None:
    """Write report.html and records.parquet of a run, and of its own folder records.csv.

    A page with pictures of maps is not replaced by one without, unless --out names its folder.
    """
    try:
        page = build(run, out, csv=csv, keep_pictures=out is None)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)


if __name__ == "__main__":
    app(prog_name="python -m reports")
