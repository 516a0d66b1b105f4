"""The command ``python -m reports.measured [RUN] [--short] [--into PAGE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evaluation.storage.writing import write_atomically
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
    try:
        made = short(run) if only_short else table(run)
        page = None if into is None else MARKS.put(into.read_text(encoding="utf-8"), made)
    except (OSError, ValueError, KeyError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if into is None or page is None:
        typer.echo(made)
        return
    text = page.encode()
    write_atomically(into, lambda file: file.write(text))


if __name__ == "__main__":
    app(prog_name="python -m reports.measured")
