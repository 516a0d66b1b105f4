"""Options in groups, with their defaults, as ``--help`` shows them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_args

from comparisons.plans.plan import Plan
from comparisons.plans.presets import PRESETS
from evaluation.training.recipe import Recipe

__all__ = ["PANELS", "in_panels", "usual_values", "with_usual_values"]

# Parameters by the heading under which help lists them.
PANELS: dict[str, tuple[str, ...]] = {
    "Images and network": ("data", "model", "train_images", "test_images", "image_size"),
    "Methods and measures": (
        *("methods", "modes", "fractions", "seeds", "first_seed_only", "mask_only"),
        *("measures", "measure_images", "measure_steps", "passes_in"),
    ),
    "Variants of ROAR and KAR": ("fill", "unit", "crossfit", "recursive"),
    "Weights of the explained network": (
        *("weights", "weights_expect", "weights_mean", "weights_std"),
    ),
    "Training": (
        *("recipe", "epochs", "learning_rate", "batch_size", "precision", "optimizer"),
        *("schedule", "milestones", "warmup", "weight_decay", "label_smoothing", "augment"),
        *("compile", "channels_last", "ranks"),
    ),
    "Preset, files and folders": (
        *("preset", "plan_file", "source", "out", "scratch", "page", "title"),
    ),
    "What a plan assumes": ("counts", "images_per_second", "rank_efficiency"),
    "Machine or cluster": (
        *("workers", "threads", "device", "engine", "address", "cpus_per_cell"),
        *("gpus_per_cell", "memory_budget"),
    ),
}
_PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
# What stands for a value that depends on something else.
_IN_WORDS = {
    "measures": "all that the images allow",
    "precision": "bfloat16 where this machine is fast at it, else float32",
    "recipe": "the preset's",
    "weights": "trained by the first seed",
    "image_size": "the images' own",
    "augment": "crop:2,flip",
    "crossfit": "no such variant",
}


def in_panels(parameters: Iterable[inspect.Parameter]) -> list[inspect.Parameter]:
    """Return the options of a command, each under the heading of its group.

    Args:
        parameters: with annotations from which typer makes options.
    """
    return [
        _changed(each, rich_help_panel=_PANEL_OF[each.name]) if each.name in _PANEL_OF else each
        for each in parameters
    ]


def with_usual_values(
    parameters: Iterable[inspect.Parameter], preset: str
) -> list[inspect.Parameter]:
    """Return the options of a plan, with a preset's value as the default that help shows.

    Args:
        parameters: of the plan; those whose default is None are the preset's.
        preset: a key of `comparisons.plans.presets.PRESETS`.
    """
    usual = usual_values(PRESETS[preset])
    return [
        _changed(each, show_default=usual[each.name])
        if each.default is None and each.name in usual
        else each
        for each in parameters
    ]


def usual_values(preset: Mapping[str, Any]) -> dict[str, str]:
    """Return a preset's value of every option of a plan, as it is typed or in words.

    >>> usual = usual_values({"fractions": (0.1, 0.5), "recipe": {"epochs": 4}})
    >>> usual["fractions"], usual["epochs"], usual["mask_only"], usual["train_images"]
    ('10,50', '4', 'roar:50,kar:10', 'all')
    """
    recipe = _defaults(Recipe) | dict(preset.get("recipe", {}))
    values = {**recipe, **_defaults(Plan), **{k: v for k, v in preset.items() if k != "recipe"}}
    return {name: _typed(name, value) for name, value in values.items()} | _IN_WORDS


def _defaults(options: type) -> dict[str, Any]:
    # A default that is made anew for each, such as a recipe, is left out.
    return {each.name: each.default for each in fields(options) if isinstance(each.default, _PLAIN)}


_PLAIN = (str, int, float, tuple, type(None))


def _typed(name: str, value: Any) -> str:
    if value is None:
        return "all" if name.endswith("images") else "none"
    if name == "fractions":
        return ",".join(f"{100 * fraction:g}" for fraction in value)
    if name == "methods" and isinstance(value, str):
        # With spaces, at which help can wrap the line.
        return ", ".join(value.split(","))
    if name == "mask_only":
        return ",".join(f"{mode}:{100 * share:g}" for mode, share in value) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value)


def _changed(parameter: inspect.Parameter, **attributes: Any) -> inspect.Parameter:
    """Return a parameter with other attributes of its option; the option may be shared."""
    kind, option = get_args(parameter.annotation)
    option = copy.copy(option)
    for name, value in attributes.items():
        setattr(option, name, value)
    return parameter.replace(annotation=Annotated[kind, option])
