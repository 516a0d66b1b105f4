"""The command ``python -m reports.changes RUN EARLIER [--into PAGE]``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports.changes.listing import MARKS, listed

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="Folder or archive of a run.", show_default=False)],
    earlier: Annotated[
        Path, typer.Argument(help="Of the run that it is held against.", show_default=False)
    ],
    into: Annotated[
        Path | None, typer.Option(help="Page that gets the list between its two marks.")
    ] = None,
) -> None:
    """Print what changed between two runs: settings, verdicts, orders; measures nothing."""
    MARKS.deliver(lambda: listed(run, earlier), into)


if __name__ == "__main__":
    app(prog_name="python -m reports.changes")
