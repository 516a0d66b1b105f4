"""The command ``python -m reports RUN [--out DIR] [--csv] [--since EARLIER]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluation.storage.archive import CELLS
from reports.pages.build import build

__all__ = ["app"]


app = typer.Typer(add_completion=False)

# An archive is a record, which a look at it does not change.
PAGES = Path("runs/pages")


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or an archive of one.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of the files; by default the run's own, and of an archive {PAGES}/NAME."
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Write records.csv of an archive too.")
    ] = False,
    since: Annotated[
        Path | None,
        typer.Option(help="An earlier run or archive: the page says what changed since then."),
    ] = None,
) -> None:
    """Write report.html and records.parquet of a run, and of one that is no archive records.csv.

    Pictures whose maps are gone stay those of the page that the run or archive has.
    """
    try:
        own = out is None and (run / CELLS).exists()
        place = PAGES / run.resolve().name if own else out
        page = build(run, place, csv=csv, since=since)
    except (FileNotFoundError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(page)


if __name__ == "__main__":
    app(prog_name="python -m reports")
