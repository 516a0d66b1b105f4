"""The command ``python -m comparisons``: ``run``, ``layers``, ``profile`` and ``methods``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from comparisons import options as shared
from comparisons.budget import MEMORY_BUDGET_MIB
from comparisons.costs.command import profile
from comparisons.layers.command import layers
from comparisons.measures import MEASURES, resolve_measures
from comparisons.methods import METHODS, resolve
from comparisons.options import (
    as_fractions,
    as_mode_shares,
    as_tracks,
    as_whole_numbers,
    as_words,
)
from comparisons.plan import PRESETS, Plan
from comparisons.registry import SETS
from comparisons.runner import run_plan
from comparisons.session import one_message
from evaluation.datasets import has_object_masks
from evaluation.retraining import Recipe, check_device, default_precision

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Compare saliency methods under identical ROAR and KAR.",
)
_console = Console(highlight=False)
app.command()(layers)
app.command()(profile)


@app.command("methods")
def list_methods() -> None:
    """List every method with its citation and parameters."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "method", "group", "citation", "parameters"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for entry in METHODS.values():
        parameters = ", ".join(f"{key}={value}" for key, value in entry.parameters.items())
        table.add_row(entry.name, entry.title, entry.group, entry.citation, parameters)
    _console.print(table)


@app.command()
def run(
    data: Annotated[
        str | None,
        shared.DATA,
    ] = None,
    model: Annotated[
        str | None,
        shared.MODEL,
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Names, comma-separated, as the methods command lists them, or {', '.join(SETS)}."
        ),
    ] = None,
    modes: Annotated[str | None, typer.Option(help="roar,kar or one of them.")] = None,
    fractions: Annotated[
        str | None, typer.Option(help="Percent of the pixels, comma-separated: 10,30,50,70,90.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Seeds, comma-separated; the first trains the network to explain."),
    ] = None,
    first_seed_only: Annotated[
        str | None, typer.Option(help="Methods to retrain with the first seed alone.")
    ] = None,
    mask_only: Annotated[
        str | None,
        typer.Option(help="What to train on the masks alone: roar:50,kar:10; or none."),
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(help=f"What to measure without retraining: all, none, {', '.join(MEASURES)}."),
    ] = None,
    measure_images: Annotated[
        int | None, typer.Option(help="Test images at most that these measures take.")
    ] = None,
    fill: Annotated[str | None, shared.FILL] = None,
    unit: Annotated[str | None, shared.UNIT] = None,
    crossfit: Annotated[int | None, shared.CROSSFIT] = None,
    recursive: Annotated[bool, shared.RECURSIVE] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    batch_size: Annotated[int | None, shared.BATCH_SIZE] = None,
    precision: Annotated[
        str | None,
        shared.PRECISION,
    ] = None,
    train_images: Annotated[int | None, shared.TRAIN_IMAGES] = None,
    test_images: Annotated[int | None, typer.Option(help="Test images likewise.")] = None,
    image_size: Annotated[int | None, shared.IMAGE_SIZE] = None,
    preset: Annotated[
        str,
        typer.Option(
            help=f"Defaults of the options above: {', '.join(PRESETS)}; smoke takes seconds, quick "
            "minutes, full hours."
        ),
    ] = "quick",
    out: Annotated[Path, shared.OUT] = Path("runs/comparison"),
    workers: Annotated[int | None, shared.WORKERS] = None,
    threads: Annotated[int, shared.THREADS] = 1,
    memory_budget: Annotated[
        int,
        typer.Option(help="MiB that one pass of a saliency method may hold, in each worker."),
    ] = MEMORY_BUDGET_MIB,
    device: Annotated[str, shared.DEVICE] = "cpu",
) -> None:
    """Run a comparison, or continue it, and write its report."""
    with one_message(_console, out):
        check_device(device)
        recipe = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "precision": precision or default_precision(device),
        }
        options = _preset(preset)
        stated: dict[str, Any] = {
            "data": data,
            "model": model,
            "methods": methods,
            "modes": as_words(modes),
            "fractions": as_fractions(fractions),
            "seeds": as_whole_numbers("--seeds", seeds),
            "mask_only": as_mode_shares("--mask-only", mask_only),
            "measure_images": measure_images,
            "train_images": train_images,
            "test_images": test_images,
            "image_size": image_size,
            **as_tracks(fill, unit, crossfit, recursive),
        }
        options |= {name: value for name, value in stated.items() if value is not None}
        given = {name: value for name, value in recipe.items() if value is not None}
        options["recipe"] = Recipe(**(options["recipe"] | given))
        known = has_object_masks(options["data"])
        if first_seed_only is not None:
            options["first_seed_only"] = resolve(first_seed_only, has_object_masks=known)
        if methods is None and not known and "methods" in options:
            # The preset's own list is for any images: what they do not allow is left out.
            allowed = resolve(None, has_object_masks=False)
            options["methods"] = ",".join(
                name for name in options["methods"].split(",") if name in allowed
            )
        options["methods"] = resolve(options.get("methods"), has_object_masks=known)
        options["measures"] = resolve_measures(measures, has_object_masks=known)
        plan = Plan(**options)
        report = run_plan(
            plan,
            out,
            workers=workers,
            threads=threads,
            device=device,
            memory_budget_mib=memory_budget,
            command=f"python -m comparisons {shlex.join(sys.argv[1:])}",
            console=_console,
        )
    _console.print(f"Report: {report}", soft_wrap=True, markup=False)


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    return dict(PRESETS[name])


if __name__ == "__main__":
    app(prog_name="python -m comparisons")
