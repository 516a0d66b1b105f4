"""The command ``python -m comparisons growth``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from comparisons.cells.run import environment
from comparisons.cli.options import as_whole_numbers, as_words, typed_command
from comparisons.plans.growth import ENGINES, Case, Sizes, cases
from comparisons.runs.growth import measure_run
from comparisons.runs.session import one_message
from evaluation.hardware import processors
from evaluation.training.retraining import default_precision
from reports.pages.growth import MACHINE, read_growth, write_growth, write_table

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
    out: Annotated[
        Path, typer.Option(help="Folder of the table and the page; what it holds is kept.")
    ] = Path("reports/runs/growth"),
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
        frame, here = read_growth(out), environment("cpu") | {"processors": processors()}
        for number, case in enumerate(wanted, 1):
            frame = _with(frame, case, here)
            _console.print(
                f"{number}/{len(wanted)}  {case.series} {case.value}: "
                f"{frame.iloc[-1]['run_s']:.1f} s after {frame.iloc[-1]['start_s']:.1f} s of start"
            )
            write_table(out, frame)
        command = typed_command()
        page = write_growth(out, frame, command=command)
    _console.print(f"Page: {page}", soft_wrap=True, markup=False)


def _with(frame: pd.DataFrame, case: Case, here: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table with a case as its last row; a run that it already has is not run again."""
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
    return table


def _numbers(option: str, text: str) -> tuple[int, ...]:
    return () if text == "none" else as_whole_numbers(option, text) or ()
