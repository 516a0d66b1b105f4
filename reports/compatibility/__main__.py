"""The command ``python -m reports.compatibility``."""

from __future__ import annotations

import gc
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer

from reports.compatibility.measuring import measure, measure_onnx, measure_times
from reports.compatibility.networks import NETWORKS, Network
from reports.compatibility.page import write_tables
from reports.compatibility.rows import Row, read_rows, write_rows

__all__ = ["RECORDS", "app"]

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "reports" / "runs" / "compatibility" / "rows.jsonl"
_OUT = Path("runs/compatibility") / RECORDS.name

app = typer.Typer(add_completion=False)


@app.command()
def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Parts of networks' names; all without any."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure networks that are recorded anew.")
    ] = False,
    times: Annotated[
        bool, typer.Option(help="Time networks that have no times; best while nothing else runs.")
    ] = True,
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help="Write ONNX files of networks that have none measured."),
    ] = False,
    records: Annotated[
        Path, typer.Option(help="JSON lines, one a network; those in it are not measured again.")
    ] = _OUT,
    page: Annotated[
        Path | None, typer.Option(help="Page that gets the tables between their marks.")
    ] = None,
) -> None:
    """Measure one row for each network on one thread, and write the tables of compatibility.

    Stopped, the command goes on where it was.
    """
    chosen = [
        one for name, one in NETWORKS.items() if not names or any(part in name for part in names)
    ]
    if not chosen:
        typer.echo(f"error: {names} is part of none of {', '.join(NETWORKS)}", err=True)
        raise typer.Exit(2)
    torch.set_num_threads(1)
    try:
        rows = read_rows(records)
        for network in chosen:
            missing = [name for name in network.wants if find_spec(name) is None]
            if missing:
                typer.echo(f"{network.name}: needs {', '.join(missing)}, not measured")
                continue
            _measured(network, rows, records, again=again, times=times, onnx=onnx)
        if page is not None:
            write_tables(page, rows)
    except (OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error


def _measured(
    network: Network, rows: dict[str, Row], records: Path, *, again: bool, times: bool, onnx: bool
) -> None:
    """Measure what a network's row lacks, and write all rows."""
    started, before = time.monotonic(), rows.get(network.name)
    row = measure(network) if again or before is None else before
    if times and row.added is None and "SMOEScale" not in row.refused:
        row = measure_times(network, row)
    if onnx and row.with_map is not None and row.onnx is None and "write_onnx" not in row.refused:
        row = measure_onnx(network, row)
    if row is before:
        return
    rows[network.name] = row
    write_rows(records, (rows[name] for name in NETWORKS if name in rows))
    added = "not timed" if row.added is None else f"{row.added.median:.1f} % added"
    took = f"{time.monotonic() - started:.0f} s"
    refused = ", ".join(row.refused) or "nothing"
    typer.echo(f"{network.name}: {len(row.scales)} scales, {added}, refused: {refused}; {took}")
    gc.collect()


if __name__ == "__main__":
    app(prog_name="python -m reports.compatibility")
