"""The command ``python -m comparisons deployment``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from comparisons.deployment import engines, exported, large, moving, seams, watched
from comparisons.deployment.tables import TABLES
from fastsal.files import written_whole

__all__ = ["MEASUREMENTS", "deployment"]

_OUT = Path("runs/deployment")

Row = Mapping[str, object]


def _exported() -> Iterable[Row]:
    with TemporaryDirectory() as folder:
        yield from exported.rows(Path(folder))


def _engines() -> Iterable[Row]:
    with TemporaryDirectory() as folder:
        yield from engines.rows(Path(folder))


MEASUREMENTS: dict[str, Callable[[], Iterable[Row]]] = {
    "engines": _engines,
    "exported": _exported,
    "large": large.rows,
    "moving": moving.rows,
    "seams": seams.rows,
    "watched": watched.rows,
}


def deployment(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help=f"Some of {', '.join(MEASUREMENTS)}; all of them by default."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the CSV files.")] = _OUT,
) -> None:
    """Measure the cost of maps in exported files, training steps, videos and large images.

    Writes NAME.csv for each measurement and prints its table as docs/results/deployment.md has it.
    """
    for name in names or ():
        if name not in MEASUREMENTS:
            typer.echo(f"error: {name!r} is none of {', '.join(MEASUREMENTS)}", err=True)
            raise typer.Exit(2)
    for name in names or MEASUREMENTS:
        path = out / f"{name}.csv"
        try:
            _measure(name, path)
        except (ImportError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error
        typer.echo(TABLES[name](path))


def _measure(name: str, path: Path) -> None:
    """Measure, print each row as soon as it is there, and write all of them as a CSV file."""
    rows: list[Row] = []
    for row in MEASUREMENTS[name]():
        rows.append(row)
        typer.echo(", ".join(f"{key} {value}" for key, value in row.items()))
    content = _as_csv(rows)
    with written_whole(path) as partial:
        partial.write_bytes(content)


def _as_csv(rows: Sequence[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
