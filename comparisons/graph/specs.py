"""Specifications of a comparison's cells: everything that a cell's result depends on.

Of a variant, a specification holds what differs from the protocol and nothing else: the cells of a
plan without further variants keep their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from comparisons.cells.cell import Cell
from comparisons.graph.names import Masked, Names
from comparisons.graph.parts import part_of
from comparisons.measures import USUAL_STEPS, Measure
from comparisons.methods import get_method
from comparisons.plans.plan import Plan
from evaluation.masking.variants import Variant
from evaluation.networks.pretrained import OWN_CLASSES, Weights
from evaluation.storage.records import CellResult

__all__ = [
    "Done",
    "Make",
    "base",
    "chained_training",
    "data_cell",
    "fine_tuning",
    "fold",
    "has_dual",
    "maps",
    "measuring",
    "next_maps",
    "part",
    "pretrained",
    "profile",
    "training",
]

# Results of finished nodes, by name, and a function from them to a full specification.
Done = Mapping[str, CellResult]
Make = Callable[[Done], Cell]

_TIE_SEED = 0
_PROFILE_BATCH = 16
# Part of the cell's id: one from before these were counted is measured anew.
_COUNTED = ("flops", "elementwise", "transcendental", "reduction")


class ImageOptions(Protocol):
    """The options of a plan that decide on its images."""

    @property
    def data(self) -> str:
        """``name`` or ``name:argument`` of a source of images."""

    @property
    def train_images(self) -> int | None:
        """Training images at most; None for all."""

    @property
    def test_images(self) -> int | None:
        """Test images at most; None for all."""

    @property
    def image_size(self) -> int | None:
        """Height and width to resize to; None to take images as they are."""

    @property
    def data_seed(self) -> int:
        """Seed of generated images, and of which images are taken."""


def data_cell(plan: ImageOptions) -> Cell:
    """Return the cell that reads or makes the images of a plan."""
    request = {
        "train_images": plan.train_images,
        "test_images": plan.test_images,
        "image_size": plan.image_size,
        "seed": plan.data_seed,
    }
    return Cell("data", {"source": plan.data, "request": request})


def pretrained(plan: Plan, weights: Weights) -> Make:
    """Specify the network with pretrained weights."""
    own = {"classes": OWN_CLASSES} if plan.takes_own_classes else {}
    return lambda done: Cell("pretrained", _common(plan, done) | weights.in_spec() | own)


def base(plan: Plan, seed: int, kind: str = "base") -> Make:
    """Specify the training on whole images, or on permuted labels for kind ``permuted``."""

    def make(done: Done) -> Cell:
        return Cell(kind, _common(plan, done) | {"recipe": plan.recipe.in_spec(), "seed": seed})

    return make


def fold(plan: Plan, folds: int, left_out: int) -> Make:
    """Specify the training on all folds but one."""

    def make(done: Done) -> Cell:
        own = {"recipe": plan.recipe.in_spec(), "seed": plan.seeds[0]}
        return Cell("fold", _common(plan, done) | own | {"folds": folds, "fold": left_out})

    return make


def maps(plan: Plan, variant: Variant, method: str) -> Make:
    """Specify a method's maps of whole images."""

    def make(done: Done) -> Cell:
        spec = _explained(plan, done, method) | {"cuts": list(plan.cuts), "tie_seed": _TIE_SEED}
        spec |= variant.in_spec
        if variant.folds:
            spec["folds"] = [done[name].id for name in Names(plan).folds(variant.folds)]
        return Cell("maps", spec)

    return make


def part(maps: Make, shards: range) -> Make:
    """Specify some shards of maps."""
    return lambda done: part_of(maps(done), shards)


def next_maps(
    plan: Plan, variant: Variant, last: Masked, fraction: float, before: str, trained: str
) -> Make:
    """Specify a method's maps of masked images, by the network that was retrained on them.

    Args:
        plan: the options.
        variant: the recursive variant.
        last: the training of that network.
        fraction: that the maps mask next.
        before: node of the maps that masked those images.
        trained: node of that training.
    """
    of_whole = Names(plan).maps(replace(variant, fill=plan.fill, recursive=False), last.method)
    cuts = list(plan.cuts) if before == of_whole else [last.fraction]

    def make(done: Done) -> Cell:
        spec = _common(plan, done) | {
            "base": done[trained].id,
            "base_hash": done[trained].hashes["model"],
            "method": last.method,
            "parameters": dict(get_method(last.method).parameters),
            "cuts": [fraction],
            "tie_seed": _TIE_SEED,
            "before": {
                "maps": done[before].id,
                "maps_hash": done[before].hashes["maps"],
                "cuts": cuts,
                "mode": last.mode,
                "fraction": last.fraction,
                "fill": variant.fill,
            },
        }
        return Cell("maps", spec | variant.in_spec)

    return make


def profile(plan: Plan, method: str) -> Make:
    """Specify the measurement of a method's cost."""

    def make(done: Done) -> Cell:
        measured = {"batch": _PROFILE_BATCH, "counted": _COUNTED}
        spec = _explained(plan, done, method) | measured
        return Cell("profile", spec | plan.all_variants[0].in_spec)

    return make


def fine_tuning(plan: Plan, measure: Measure, seed: int) -> Make:
    """Specify the fine-tuning of the explained network that a measure takes for all methods."""

    def make(done: Done) -> Cell:
        base = done[Names(plan).explained(seed)]
        spec = {
            "base": base.id,
            "base_hash": base.hashes["model"],
            "recipe": plan.recipe.for_fine_tuning().in_spec(),
            "seed": seed,
            "removal": dict(measure.removal or {}),
            "accuracy": measure.tuned_accuracy,
        }
        return Cell("fine_tuned", _common(plan, done) | spec)

    return make


def measuring(plan: Plan, measure: Measure, method: str, seed: int) -> Make:
    """Specify a measure without retraining, of the maps of a seed's own network."""

    def make(done: Done) -> Cell:
        spec = {"measure": measure.name, "images": plan.measure_images, "seed": seed}
        if measure.in_steps and plan.measure_steps != USUAL_STEPS:
            spec["steps"] = plan.measure_steps
        if measure.forwards and plan.passes_in != "torch" and measure.removal is None:
            spec["passes_in"] = plan.passes_in
        if measure.needs_permuted:
            permuted = done[Names(plan).permuted(seed)]
            spec |= {"permuted": permuted.id, "permuted_hash": permuted.hashes["model"]}
        if measure.removal is not None:
            tuned = done[Names(plan).fine_tuned(measure.name, seed)]
            spec |= {"fine_tuned": tuned.id, "fine_tuned_hash": tuned.hashes["model"]}
        return Cell("measure", _explained(plan, done, method, seed) | spec)

    return make


def training(plan: Plan, variant: Variant, masked: Masked, maps: str, source: str | None) -> Make:
    """Specify a training on masked images, or that of the first variant if its masks are the same.

    Args:
        plan: the options.
        variant: of ROAR and KAR.
        masked: the training.
        maps: node of the maps.
        source: node of the first variant's training at the same place; None if the variants
            differ in more than their maps.
    """
    first_maps = Names(plan).maps(plan.all_variants[0], masked.method)

    def make(done: Done) -> Cell:
        own = _on_masked(plan, done, variant, masked, maps)
        if source is None or done[maps].hashes["maps"] != done[first_maps].hashes["maps"]:
            return Cell(masked.kind, own)
        # Part of stored ids, from when variants were called tracks.
        why = "the first track: the same masks"
        return Cell("same", own | {"of": done[source].id, "why": why})

    return make


def chained_training(
    plan: Plan, variant: Variant, masked: Masked, maps: str, last: Masked | None
) -> Make:
    """Specify a training whose network makes the maps of the next fraction.

    Args:
        plan: the options.
        variant: the recursive variant.
        masked: the training.
        maps: node of the maps.
        last: the training before; None at the smallest fraction.
    """

    def make(done: Done) -> Cell:
        spec = _on_masked(plan, done, variant, masked, maps)
        if last is not None:
            spec["cuts"] = [masked.fraction]
        if masked.fraction != plan.fractions[-1]:
            spec["keep"] = True
        return Cell(masked.kind, spec)

    return make


def has_dual(plan: Plan, method: str, fraction: float) -> bool:
    """Return True if another training of the plan is the same experiment in the other mode."""
    both = set(plan.modes) == {"roar", "kar"}
    return get_method(method).self_dual and both and round(1.0 - fraction, 10) in plan.fractions


def _on_masked(
    plan: Plan, done: Done, variant: Variant, masked: Masked, maps: str
) -> dict[str, Any]:
    dual = masked.kind == "retrain" and masked.mode == "roar" and not variant.recursive
    return _common(plan, done) | {
        "recipe": plan.recipe.in_spec(),
        "seed": masked.seed,
        "method": masked.method,
        "parameters": dict(get_method(masked.method).parameters),
        "maps": done[maps].id,
        "maps_hash": done[maps].hashes["maps"],
        "cuts": list(plan.cuts),
        "mode": masked.mode,
        "fraction": masked.fraction,
        "fill": variant.fill,
        "dual": dual and has_dual(plan, masked.method, masked.fraction),
        **variant.in_spec,
    }


def _explained(plan: Plan, done: Done, method: str, seed: int | None = None) -> dict[str, Any]:
    """Return the specification of every cell that applies a method to a frozen network."""
    base = done[Names(plan).explained(seed)]
    return _common(plan, done) | {
        "base": base.id,
        "base_hash": base.hashes["model"],
        "method": method,
        "parameters": dict(get_method(method).parameters),
    }


def _common(plan: Plan, done: Done) -> dict[str, Any]:
    data = done["data"]
    return {"data": data.id, "data_hash": data.hashes["data"], "model": plan.model}
