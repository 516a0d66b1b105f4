"""The command ``python -m comparisons layers``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from comparisons.cli import options as shared
from comparisons.cli import recipe_options as training
from comparisons.cli.archive import FROM
from comparisons.cli.engine_options import EngineOptions, with_engine_options
from comparisons.cli.options import typed_command
from comparisons.plans.layers import AS_BUILT, TRAIN, LayersPlan, tuning_recipe
from comparisons.plans.words import as_mode_shares, as_whole_numbers, as_words
from comparisons.runs.archive import archived_plan
from comparisons.runs.layers import run_layers
from comparisons.runs.prior import has_accuracies, write_prior
from comparisons.runs.session import one_message
from evaluation.layers.layerwise import Locations
from evaluation.masking.levels import MODES
from evaluation.storage.archive import open_run
from evaluation.training.retraining import Recipe, check_device, default_precision
from fastsal.statistics.registry import STATISTICS

__all__ = ["layers"]

_console = Console(highlight=False)


# Options that say no plan: with --from they may be stated beside an archive's own.
_BESIDE_A_PLAN = (
    *("context", "source", "out", "weights_out", "log_base"),
    *(option.name for option in fields(EngineOptions)),
)


@with_engine_options
def layers(
    context: typer.Context,
    machine: EngineOptions,
    data: Annotated[
        str,
        shared.DATA,
    ] = "shapes",
    model: Annotated[
        str,
        shared.MODEL,
    ] = "resnet9",
    start: Annotated[
        str,
        typer.Option(
            help=f"Weights to start from: {TRAIN} (from scratch, a network a seed), {AS_BUILT} (as "
            "the model's function returns it), or a file with a state dict."
        ),
    ] = TRAIN,
    statistics: Annotated[
        str | None,
        typer.Option(help=f"Names, comma-separated; all by default: {', '.join(STATISTICS)}."),
    ] = None,
    fractions: Annotated[
        str,
        typer.Option(
            help="Percent of a scale's locations that pass: the most salient in KAR, the least "
            "salient in ROAR."
        ),
    ] = "kar:2.5,roar:10",
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0",
    epochs: Annotated[int, typer.Option(help="Epochs of each fine-tuning.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of fine-tuning.")] = 0.02,
    base_epochs: Annotated[int, typer.Option(help="Epochs of the network itself.")] = 6,
    base_learning_rate: Annotated[float, typer.Option(help="Its peak learning rate.")] = 0.1,
    batch_size: Annotated[int, training.BATCH_SIZE] = 64,
    precision: Annotated[
        str | None,
        training.PRECISION,
    ] = None,
    train_images: Annotated[int | None, shared.TRAIN_IMAGES] = None,
    tuning_images: Annotated[
        int | None, typer.Option(help="Of these, those that fine-tuning sees; all by default.")
    ] = None,
    test_images: Annotated[int | None, typer.Option(help="Test images at most.")] = None,
    image_size: Annotated[int | None, shared.IMAGE_SIZE] = None,
    log_base: Annotated[
        float | None, typer.Option(help="Base of the information score's logarithm; e by default.")
    ] = None,
    weights_out: Annotated[
        Path | None,
        typer.Option(help="A .json file for one weight a scale: SMOEScale(weights=FILE)."),
    ] = None,
    source: Annotated[Path | None, FROM] = None,
    out: Annotated[Path, shared.OUT] = Path("runs/layers"),
) -> None:
    """Mask every scale inside a network, by every statistic, and fine-tune what comes after."""
    with one_message(_console, out):
        check_device(machine.device)
        if weights_out is not None and weights_out.suffix != ".json":
            raise ValueError(f"--weights-out {weights_out}: expected a name that ends in .json")
        common: dict[str, Any] = {
            "batch_size": batch_size,
            "precision": precision or default_precision(machine.device),
        }
        plan = LayersPlan(
            data=data,
            model=model,
            statistics=as_words(statistics) or tuple(STATISTICS),
            start=_start(start),
            locations=_locations(fractions),
            seeds=as_whole_numbers("--seeds", seeds) or (),
            train_images=train_images,
            test_images=test_images,
            tuning_images=tuning_images,
            image_size=image_size,
            base=Recipe(epochs=base_epochs, learning_rate=base_learning_rate, **common),
            tuning=tuning_recipe(epochs=epochs, learning_rate=learning_rate, **common),
        )
        command = typed_command()
        if source is not None and not _states_a_plan(context):
            content = archived_plan(source, "layers").content
            plan, command = LayersPlan.from_json(content["plan"]), content["command"]
            log_base = content["log_base"] if log_base is None else log_base
            results = open_run(source).results()
            if weights_out is not None and has_accuracies(results, plan, content["layers"]):
                # Neither a run nor images are needed.
                write_prior(weights_out, results, plan, content["layers"])
                _console.print(f"Weights: {weights_out}", soft_wrap=True, markup=False)
                return
        report = run_layers(
            plan,
            out,
            weights_out=weights_out,
            log_base=log_base,
            engine=machine.engine_of(),
            command=command,
            console=_console,
            source=source,
        )
    _console.print(f"Report: {report}", soft_wrap=True, markup=False)


def _states_a_plan(context: typer.Context) -> bool:
    return any(
        getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
        for name in context.params
        if name not in _BESIDE_A_PLAN
    )


def _start(text: str) -> str:
    if text not in (TRAIN, AS_BUILT) and not Path(text).is_file():
        raise ValueError(f"--start: no file {text!r}; expected {TRAIN}, {AS_BUILT} or a file")
    return text


def _locations(text: str) -> Locations:
    shares = as_mode_shares("--fractions", text) or ()
    modes = [mode for mode, _ in shares]
    if sorted(modes) != sorted(MODES):
        raise ValueError(f"--fractions {text!r}: expected both once, such as kar:2.5,roar:10")
    given = dict(shares)
    return Locations(kar=given["kar"], roar=given["roar"])
