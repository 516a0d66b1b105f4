"""The command ``python -m comparisons growth``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console

from comparisons.budget import usual_memory_budget_mib
from comparisons.cells.run import environment
from comparisons.cli.options import typed_command
from comparisons.engines.worker import set_up_worker
from comparisons.estimates.reading import measure_reading
from comparisons.plans.growth import ENGINES, Case, Sizes, cases
from comparisons.plans.words import as_whole_numbers, as_words
from comparisons.runs.growth import measure_run
from comparisons.runs.session import one_message
from evaluation.hardware import processors
from evaluation.training.retraining import check_device, default_precision
from reports.pages.growth import MACHINE, TABLE, read_growth, write_growth, write_table
from reports.pages.reading import READING_TABLE, read_reading, write_reading

__all__ = ["growth"]

_console = Console(highlight=False)
_DEFAULT = Sizes()
_NONE = "; none for no such run."


def growth(
    workers: Annotated[
        str, typer.Option(help=f"Numbers of worker processes, comma-separated{_NONE}")
    ] = ",".join(map(str, _DEFAULT.workers)),
    engines: Annotated[str, typer.Option(help=f"Some of {', '.join(ENGINES)}{_NONE}")] = ",".join(
        ENGINES
    ),
    images: Annotated[str, typer.Option(help=f"Numbers of training images{_NONE}")] = ",".join(
        map(str, _DEFAULT.images)
    ),
    methods: Annotated[str, typer.Option(help=f"Numbers of methods{_NONE}")] = ",".join(
        map(str, _DEFAULT.methods)
    ),
    fractions: Annotated[str, typer.Option(help=f"Numbers of fractions{_NONE}")] = ",".join(
        map(str, _DEFAULT.fractions)
    ),
    cell_images: Annotated[
        int, typer.Option(help="Training images of each cell that the workers share.")
    ] = _DEFAULT.cell_images,
    training_images: Annotated[
        int,
        typer.Option(
            help="Images of each epoch that is trained on with images held on the device and with "
            "images read; 0 for none."
        ),
    ] = 2048,
    device: Annotated[str, typer.Option(help="Of these two trainings: cpu or cuda.")] = "cpu",
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the table and the page. Runs of its table that were measured on a "
            "machine like this one are taken from there."
        ),
    ] = Path("runs/growth"),
) -> None:
    """Measure how time and memory grow with workers, images, methods and fractions.

    Each run is a command of its own, one after another. Nothing else should run meanwhile.
    """
    with one_message(_console, out):
        sizes = Sizes(
            workers=_numbers("--workers", workers),
            engines=() if engines == "none" else as_words(engines) or (),
            images=_numbers("--images", images),
            methods=_numbers("--methods", methods),
            fractions=_numbers("--fractions", fractions),
            cell_images=cell_images,
        )
        wanted = cases(sizes, default_precision("cpu"))
        measured: set[str] = set()
        frame, here = read_growth(out), environment("cpu") | {"processors": processors()}
        for number, case in enumerate(wanted, 1):
            frame, is_new = _with(frame, case, here, measured)
            row = frame.iloc[-1]
            said = f"{row['run_s']:.1f} s after {row['start_s']:.1f} s of start"
            if is_new:
                measured.add(case.id)
            else:
                said = f"not measured now; {TABLE} in {out} says {said}"
            _console.print(
                f"{number}/{len(wanted)}  {case.series} {case.value}: {said}",
                soft_wrap=True,
                markup=False,
            )
            write_table(out, frame)
        reading = _reading(out, training_images, device)
        command = typed_command()
        page = write_growth(out, _of(here, frame), reading=reading, command=command)
    _console.print(f"Page: {page}", soft_wrap=True, markup=False)


def _of(here: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table that were measured on a machine like this one."""
    if frame.empty:
        return frame
    alike = pd.concat([frame[name] == here[name] for name in MACHINE], axis=1).all(axis=1)
    mine: pd.DataFrame = frame[alike]
    return mine


def _reading(out: Path, images: int, device: str) -> pd.DataFrame:
    """Return images a second of images held and read, measured here unless the table has them.

    Args:
        out: the folder of the table.
        images: images of an epoch; 0 to measure nothing.
        device: of the trainings.
    """
    kept = read_reading(out)
    if not images:
        return kept
    check_device(device)
    here = environment(device) | {"processors": processors()}
    own = _of(here, kept)
    if len(own) and ((own["device"] == device) & (own["training_images"] == images)).any():
        _console.print(f"images held and read: {READING_TABLE} in {out} has them", markup=False)
        return kept
    threads = torch.get_num_threads()
    set_up_worker(1, usual_memory_budget_mib(device))
    rows = []
    try:
        for found in measure_reading(images, device):
            rows.append(asdict(found) | {name: here[name] for name in MACHINE})
            _console.print(
                f"{found.network}: {found.held:,.0f} images a second held, {found.read:,.0f} read",
                markup=False,
            )
    finally:
        torch.set_num_threads(threads)
    others = kept if kept.empty else kept[kept["device"] != device]
    parts = [part for part in (others, pd.DataFrame(rows)) if len(part)]
    table: pd.DataFrame = pd.concat(parts, ignore_index=True)
    write_reading(out, table)
    return table


def _with(
    frame: pd.DataFrame, case: Case, here: Mapping[str, Any], measured: Set[str]
) -> tuple[pd.DataFrame, bool]:
    """Return the table with a case as its last row, and True if the row was measured by this call.

    A run that the table already has is not run again.

    Args:
        frame: the table.
        case: the run.
        here: the machine.
        measured: ids of the runs that this call has measured.
    """
    own: dict[str, Any] = {"series": case.series, "value": case.value, "engine": case.engine}
    own |= {"workers": case.workers, "run": case.id}
    own |= {name: here[name] for name in MACHINE}
    alike = frame["run"] == case.id
    for name in MACHINE:
        alike &= frame[name] == here[name]
    if alike.any():
        row = frame[alike].iloc[0].to_dict() | own
    else:
        with tempfile.TemporaryDirectory() as folder:
            row = own | measure_run(case, Path(folder)).row()
    replaced = (frame["series"] == case.series) & (frame["value"] == case.value)
    parts = [frame[~replaced], pd.DataFrame([row])]
    table: pd.DataFrame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return table, not alike.any() or case.id in measured


def _numbers(option: str, text: str) -> tuple[int, ...]:
    return () if text == "none" else as_whole_numbers(option, text) or ()
