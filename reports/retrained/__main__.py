"""The command ``python -m reports.retrained RUN [--into PAGE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.retrained.table import MARKS, table

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[
        Path, typer.Argument(help="Folder or archive of a run of ROAR and KAR.", show_default=False)
    ],
    into: Annotated[
        Path | None, typer.Option(help="Page that gets the table between its two marks.")
    ] = None,
) -> None:
    """Print the sums of a run, and what is told from its controls; measures nothing."""
    MARKS.deliver(lambda: table(run), into)


if __name__ == "__main__":
    app(prog_name="python -m reports.retrained")
