"""The command ``python -m comparisons architectures``."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from comparisons.architectures.costs import costs
from comparisons.architectures.measuring import measured
from comparisons.architectures.networks import ARCHITECTURES
from comparisons.architectures.page import write_page
from comparisons.architectures.photographs import photographs
from comparisons.architectures.tokens.picture import STREAMS, write_picture
from comparisons.architectures.tokens.retraining import RETRAINED, TOKENS, retrain
from comparisons.plans.words import as_fractions
from evaluation.masking.levels import check_fractions
from fastsal.files import written_whole
from reports.measured.table import RUN

__all__ = ["architectures"]

_OUT = Path("runs/architectures")
_SEEDS = 3


def architectures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help=f"Some of {', '.join(ARCHITECTURES)}; all of them by default."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network.")] = _SEEDS,
    data: Annotated[
        str,
        typer.Option(
            "--photographs",
            help="ImageNet's photographs for the correlation to the Gamma scale, imagenet:PATH or "
            "folder:PATH; none without it.",
        ),
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="Number of photographs.")] = 100,
    run: Annotated[
        Path | None,
        typer.Option(
            show_default="reports/runs/imagenette-lite0",
            help="Run of python -m comparisons run --modes none, whose insertion less deletion of "
            "photographs is on the page.",
        ),
    ] = None,
    roar: Annotated[
        str,
        typer.Option(
            help="Percent of the pixels, comma-separated, without which networks of tokens are "
            f"trained again ({', '.join(TOKENS)}), {len(RETRAINED)} times or less each; none "
            "without it."
        ),
    ] = "",
    time: Annotated[
        bool, typer.Option("--costs/--no-costs", help="Time the map on the published networks.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder of weights, records and the page.")] = _OUT,
) -> None:
    """Train small networks of many families on shapes, and measure their maps.

    Writes records.jsonl, roar.jsonl, streams.png, costs.json, photographs.json and
    architectures.md. What is there is not made again: stopped, the command goes on where it was.
    """
    for name in names or ():
        if name not in ARCHITECTURES:
            typer.echo(f"error: {name!r} is none of {', '.join(ARCHITECTURES)}", err=True)
            raise typer.Exit(2)
    chosen = list(names or ARCHITECTURES)
    out.mkdir(parents=True, exist_ok=True)
    try:
        fractions = _fractions(roar)
        # Every network once before any again, so that an early stop leaves a whole table.
        for seed in range(seeds):
            for name in chosen:
                measured(name, seed, out, typer.echo)
                _gather(out)
        if fractions:
            for seed, name in product(range(seeds), (name for name in chosen if name in TOKENS)):
                retrain(name, seed, fractions, out, typer.echo)
        kept = [name for name in STREAMS if (out / f"{name}-0.pt").is_file()]
        if streams := [name for name in kept if name in chosen]:
            write_picture(streams, out, out / "streams.png")
        if time:
            costs(out / "costs.json", chosen, typer.echo)
        if data:
            photographs(data, count, out / "photographs.json", typer.echo)
    except (ImportError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    page = out / "architectures.md"
    write_page(out, page, run or RUN)
    typer.echo(f"the page is {page}")


def _fractions(percents: str) -> tuple[float, ...]:
    """Return the shares of a comma-separated list of percents, in its order.

    Raises:
        ValueError: If a word is no number, or no percentage that can be removed.

    >>> _fractions("50,10"), _fractions("")
    ((0.5, 0.1), ())
    """
    fractions = as_fractions(percents) or ()
    if fractions:
        check_fractions(fractions)
    return fractions


def _gather(folder: Path) -> None:
    """Write the measurements of all networks and seeds as one file."""
    lines = [
        path.read_text(encoding="utf-8")
        for name in ARCHITECTURES
        for path in sorted(folder.glob(f"{name}-*.json"))
    ]
    with written_whole(folder / "records.jsonl") as partial:
        partial.write_text("".join(lines), encoding="utf-8")
