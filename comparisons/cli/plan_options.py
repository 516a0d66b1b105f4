"""Options of a comparison's plan, declared once for every command that takes a plan."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from comparisons.cli import options as shared
from comparisons.cli import recipe_options as training
from comparisons.cli.options import as_variants
from comparisons.cli.panels import with_usual_values
from comparisons.cli.recipe_options import (
    as_augmentation,
    as_milestones,
    as_normalisation,
    stated_recipe,
)
from comparisons.measures import MEASURES, resolve_measures
from comparisons.methods import resolve
from comparisons.methods.registry import SETS
from comparisons.plans.plan import Plan
from comparisons.plans.presets import GRID_OPTIONS, PRESETS
from comparisons.plans.words import as_fractions, as_mode_shares, as_whole_numbers, as_words
from evaluation.datasets.load import axes_of, has_object_masks

__all__ = ["PlanOptions", "with_plan_options"]

# The preset where none is named; help shows its values.
_PRESET = "quick"


def _plan(
    data: Annotated[str | None, shared.DATA] = None,
    model: Annotated[str | None, shared.MODEL] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Names, comma-separated, as the methods command lists them, or {', '.join(SETS)}."
        ),
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(help="roar,kar or one of them; none to take the measures alone."),
    ] = None,
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
    measure_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps in which insertion and deletion remove all pixels; ROAD takes half as many."
        ),
    ] = None,
    passes_in: Annotated[
        str | None,
        typer.Option(
            help="What runs their plain forward passes: torch, or on a CPU onnxruntime, in a "
            "fraction of the time."
        ),
    ] = None,
    fill: Annotated[str | None, shared.FILL] = None,
    unit: Annotated[str | None, shared.UNIT] = None,
    crossfit: Annotated[int | None, shared.CROSSFIT] = None,
    recursive: Annotated[bool, shared.RECURSIVE] = False,
    weights: Annotated[str | None, training.WEIGHTS] = None,
    weights_expect: Annotated[str | None, training.WEIGHTS_EXPECT] = None,
    weights_mean: Annotated[str | None, training.WEIGHTS_MEAN] = None,
    weights_std: Annotated[str | None, training.WEIGHTS_STD] = None,
    recipe: Annotated[str | None, training.RECIPE] = None,
    epochs: Annotated[int | None, training.EPOCHS] = None,
    learning_rate: Annotated[float | None, training.LEARNING_RATE] = None,
    batch_size: Annotated[int | None, training.BATCH_SIZE] = None,
    precision: Annotated[str | None, training.PRECISION] = None,
    optimizer: Annotated[str | None, training.OPTIMIZER] = None,
    schedule: Annotated[str | None, training.SCHEDULE] = None,
    milestones: Annotated[str | None, training.MILESTONES] = None,
    warmup: Annotated[float | None, training.WARMUP] = None,
    weight_decay: Annotated[float | None, training.WEIGHT_DECAY] = None,
    label_smoothing: Annotated[float | None, training.LABEL_SMOOTHING] = None,
    augment: Annotated[str | None, training.AUGMENT] = None,
    compile: Annotated[bool | None, training.COMPILE] = None,
    channels_last: Annotated[bool | None, training.CHANNELS_LAST] = None,
    ranks: Annotated[int | None, training.RANKS] = None,
    train_images: Annotated[int | None, shared.TRAIN_IMAGES] = None,
    test_images: Annotated[int | None, typer.Option(help="Test images likewise.")] = None,
    image_size: Annotated[int | None, shared.IMAGE_SIZE] = None,
    preset: Annotated[
        str,
        typer.Option(
            help=f"Defaults of the options above: {', '.join(PRESETS)}; smoke takes seconds, "
            "quick, volumes and signals minutes, full hours; published takes a network as it is, "
            "and trains nothing."
        ),
    ] = _PRESET,
    *,
    device: str,
) -> Plan:
    """Return the plan that the options of a command describe.

    An option is a parameter: added here, it is one of every command that takes a plan. The device
    is an option of the command's own, and decides the default precision.

    Raises:
        ValueError: an option that makes no sense; says which and what to do.
    """
    trained = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "precision": precision,
        "optimizer": optimizer,
        "schedule": schedule,
        "milestones": as_milestones(milestones),
        "warmup": warmup,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
        "compile": compile,
        "channels_last": channels_last,
        "ranks": ranks,
        **as_augmentation(augment),
    }
    options = _preset(preset, data)
    stated: dict[str, Any] = {
        "data": data,
        "model": model,
        "methods": methods,
        "modes": () if modes == "none" else as_words(modes),
        "fractions": as_fractions(fractions),
        "seeds": as_whole_numbers("--seeds", seeds),
        "mask_only": as_mode_shares("--mask-only", mask_only),
        "measure_images": measure_images,
        "measure_steps": measure_steps,
        "passes_in": passes_in,
        "train_images": train_images,
        "test_images": test_images,
        "image_size": image_size,
        "weights": weights,
        "weights_expect": weights_expect,
        "weights_normalisation": as_normalisation(weights_mean, weights_std),
        **as_variants(fill, unit, crossfit, recursive),
    }
    options |= {name: value for name, value in stated.items() if value is not None}
    if modes == "none" and mask_only is None:
        # Those of a preset belong to its retraining.
        options["mask_only"] = ()
    options["recipe"] = stated_recipe(recipe, options["recipe"], trained, device=device)
    known, axes = has_object_masks(options["data"]), axes_of(options["data"])
    allows = partial(resolve, has_object_masks=known, axes=axes)
    if first_seed_only is not None:
        options["first_seed_only"] = allows(first_seed_only)
    if methods is None and "methods" in options:
        # A preset's list is for any images: methods that these do not allow are left out.
        allowed = allows(None)
        options["methods"] = ",".join(
            name for name in options["methods"].split(",") if name in allowed
        )
    options["methods"] = allows(options.get("methods"))
    wanted = measures
    if wanted is None and "measures" in options:
        suited = resolve_measures(None, has_object_masks=known, axes=axes)
        wanted = ",".join(name for name in options["measures"] if name in suited) or "none"
    given = options.get("weights") is not None
    options["measures"] = tuple(
        name
        for name in resolve_measures(wanted, has_object_masks=known, axes=axes)
        # For given weights "all" leaves out measures that train a network.
        if wanted not in (None, "all") or not given or not MEASURES[name].trains
    )
    return Plan(**options)


def _preset(name: str, data: str | None) -> dict[str, Any]:
    """Return the options of a preset, as they are for the stated data, or its own."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
    options = dict(PRESETS[name])
    if data is None or axes_of(data) == axes_of(options["data"]):
        return options
    of_grid = GRID_OPTIONS.get(axes_of(data), {})
    recipe = options["recipe"] | of_grid.get("recipe", {})
    return options | of_grid | {"recipe": recipe}


@dataclass(frozen=True)
class PlanOptions:
    """Options of a plan as typed.

    Args:
        values: each option's value, as typed or its default.
        stated: the options that were typed, as they are typed: ``--seeds``.
    """

    values: Mapping[str, Any]
    stated: tuple[str, ...]

    def plan(self, device: str) -> Plan:
        """Return the plan that the options describe.

        Args:
            device: of the networks; decides the precision if none was typed.

        Raises:
            ValueError: an option that makes no sense; says which and what to do.
        """
        return _plan(**self.values, device=device)


def with_plan_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a plan, before its own.

    Args:
        command: takes `PlanOptions` first; its other parameters are options of its own.

    Returns:
        What `typer` makes a command of.
    """
    # String annotations are resolved in the module of each function.
    declared = inspect.signature(_plan, eval_str=True).parameters.values()
    shown = with_usual_values(
        (each for each in declared if each.kind is not inspect.Parameter.KEYWORD_ONLY), _PRESET
    )
    first, *own = inspect.signature(command, eval_str=True).parameters.values()
    context = inspect.Parameter("context", first.kind, annotation=typer.Context)

    @functools.wraps(command)
    def called(context: typer.Context, **values: Any) -> None:
        plan_values = {each.name: values.pop(each.name) for each in shown}
        stated = tuple(
            f"--{name.replace('_', '-')}"
            for name in plan_values
            if getattr(context.get_parameter_source(name), "name", "DEFAULT") != "DEFAULT"
        )
        command(PlanOptions(plan_values, stated), **values)

    return shared.declare_parameters(called, [context, *shown, *own])
