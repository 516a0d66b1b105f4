"""What each cell of a plan says: the names of its nodes, and all that its result depends on.

A specification holds what is unusual about a track and nothing of the usual: the cells of a plan
without tracks keep the ids they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from comparisons.cells.maps import part_of
from comparisons.cells.run import Cell
from comparisons.measures import Measure
from comparisons.methods.controls import METHODS
from comparisons.plans.plan import Plan
from evaluation.masking.levels import Mode
from evaluation.masking.variants import Variant
from evaluation.storage.records import CellResult
from evaluation.training.pretrained import Weights

__all__ = [
    "Done",
    "Masked",
    "base",
    "base_name",
    "chained_training",
    "data_cell",
    "explained_name",
    "fold",
    "fold_name",
    "has_dual",
    "maps",
    "maps_name",
    "measuring",
    "next_maps",
    "next_maps_name",
    "part",
    "part_name",
    "permuted_name",
    "pretrained",
    "profile",
    "training",
    "training_name",
]

# Results of finished nodes, by name.
Done = Mapping[str, CellResult]
Make = Callable[[Done], Cell]

_TIE_SEED = 0
_PROFILE_BATCH = 16
# Part of the cell's id: one from before these were counted is measured anew.
_COUNTED = ("flops", "elementwise", "transcendental", "reduction")


@dataclass(frozen=True)
class Masked:
    """A training on masked images: of which method, how much of them, with which seed.

    Args:
        method: whose maps.
        mode: ``roar`` or ``kar``.
        fraction: share of the pixels removed or kept.
        seed: of the training.
        kind: ``retrain``, or ``mask_only`` for one on the masks alone.
    """

    method: str
    mode: Mode
    fraction: float
    seed: int
    kind: str = "retrain"


def data_cell(plan: Plan) -> Cell:
    """The cell that reads or makes the images of a plan."""
    request = {
        "train_images": plan.train_images,
        "test_images": plan.test_images,
        "image_size": plan.image_size,
        "seed": plan.data_seed,
    }
    return Cell("data", {"source": plan.data, "request": request})


def base_name(seed: int) -> str:
    """Name of the training on whole images."""
    return f"unmasked, seed {seed}"


def explained_name(plan: Plan, seed: int | None = None) -> str:
    """Name of the node whose network the maps explain: the first seed's, or that of `seed`."""
    if plan.weights is not None:
        return "given weights"
    return base_name(plan.seeds[0] if seed is None else seed)


def pretrained(plan: Plan, weights: Weights) -> Make:
    """The network with weights that were trained elsewhere."""
    return lambda done: Cell("pretrained", _common(plan, done) | weights.in_spec())


def permuted_name(seed: int) -> str:
    """Name of the training on permuted labels."""
    return f"labels permuted, seed {seed}"


def base(plan: Plan, seed: int, kind: str = "base") -> Make:
    """The training on whole images; of kind ``permuted``, with labels that mean nothing."""

    def make(done: Done) -> Cell:
        return Cell(kind, _common(plan, done) | {"recipe": plan.recipe.in_spec(), "seed": seed})

    return make


def fold_name(folds: int, fold: int) -> str:
    """Name of the training on all folds but one."""
    return f"unmasked without fold {fold + 1} of {folds}"


def fold(plan: Plan, folds: int, left_out: int) -> Make:
    """The training on all folds but one, and what it predicts for that one."""

    def make(done: Done) -> Cell:
        own = {"recipe": plan.recipe.in_spec(), "seed": plan.seeds[0]}
        return Cell("fold", _common(plan, done) | own | {"folds": folds, "fold": left_out})

    return make


def maps_name(plan: Plan, track: Variant, method: str) -> str:
    """Name of a method's maps in a track."""
    return _named(plan, track, f"maps of {method}")


def maps(plan: Plan, track: Variant, method: str) -> Make:
    """A method's maps of whole images."""

    def make(done: Done) -> Cell:
        spec = _explained(plan, done, method) | {"cuts": list(plan.cuts), "tie_seed": _TIE_SEED}
        spec |= track.in_spec
        if track.folds:
            names = (fold_name(track.folds, left_out) for left_out in range(track.folds))
            spec["folds"] = [done[name].id for name in names]
        return Cell("maps", spec)

    return make


def part_name(maps: str, place: int, parts: int) -> str:
    """Name of a part of maps, counted from 0."""
    return f"{maps}, part {place + 1} of {parts}"


def part(maps: Make, shards: range) -> Make:
    """Some shards of maps, as another worker makes them."""
    return lambda done: part_of(maps(done), shards)


def next_maps_name(plan: Plan, track: Variant, last: Masked) -> str:
    """Name of the maps by the network that was retrained at a fraction."""
    return _named(
        plan,
        track,
        f"maps of {last.method} after {100 * last.fraction:g} %, seed {last.seed}",
    )


def next_maps(
    plan: Plan, track: Variant, last: Masked, fraction: float, before: str, trained: str
) -> Make:
    """A method's maps of masked images, by the network that was retrained on them.

    Args:
        plan: the options.
        track: the recursive track.
        last: what the network was trained on.
        fraction: what the maps are for.
        before: node of the maps that masked those images.
        trained: node of that training.
    """

    of_whole = maps_name(plan, replace(track, fill=plan.fill, recursive=False), last.method)
    cuts = list(plan.cuts) if before == of_whole else [last.fraction]

    def make(done: Done) -> Cell:
        spec = _common(plan, done) | {
            "base": done[trained].id,
            "base_hash": done[trained].hashes["model"],
            "method": last.method,
            "parameters": dict(METHODS[last.method].parameters),
            "cuts": [fraction],
            "tie_seed": _TIE_SEED,
            "before": {
                "maps": done[before].id,
                "maps_hash": done[before].hashes["maps"],
                "cuts": cuts,
                "mode": last.mode,
                "fraction": last.fraction,
                "fill": track.fill,
            },
        }
        return Cell("maps", spec | track.in_spec)

    return make


def profile(plan: Plan, method: str) -> Make:
    """What a method's maps cost."""

    def make(done: Done) -> Cell:
        measured = {"batch": _PROFILE_BATCH, "counted": _COUNTED}
        spec = _explained(plan, done, method) | measured
        return Cell("profile", spec | plan.tracks[0].in_spec)

    return make


def measuring(plan: Plan, measure: Measure, method: str, seed: int) -> Make:
    """A measure without retraining, of the maps of a seed's own network."""

    def make(done: Done) -> Cell:
        spec = {"measure": measure.name, "images": plan.measure_images, "seed": seed}
        if measure.needs_permuted:
            permuted = done[permuted_name(seed)]
            spec |= {"permuted": permuted.id, "permuted_hash": permuted.hashes["model"]}
        return Cell("measure", _explained(plan, done, method, seed) | spec)

    return make


def training_name(plan: Plan, track: Variant, masked: Masked) -> str:
    """Name of a training on masked images."""
    words = "mask only, " if masked.kind == "mask_only" else ""
    what = f"{words}{masked.mode} {100 * masked.fraction:g} %, seed {masked.seed}"
    return _named(plan, track, f"{masked.method}, {what}")


def training(plan: Plan, track: Variant, masked: Masked, maps: str, source: str | None) -> Make:
    """A training on masked images, or the first track's if its masks are the same.

    Args:
        plan: the options.
        track: how ROAR and KAR are read.
        masked: what is trained on.
        maps: node of the maps.
        source: node of the first track's training at the same place; None where the track differs
            from it in more than its maps.
    """
    first_maps = maps_name(plan, plan.tracks[0], masked.method)

    def make(done: Done) -> Cell:
        own = _on_masked(plan, done, track, masked, maps)
        if source is None or done[maps].hashes["maps"] != done[first_maps].hashes["maps"]:
            return Cell(masked.kind, own)
        why = "the first track: the same masks"
        return Cell("same", own | {"of": done[source].id, "why": why})

    return make


def chained_training(
    plan: Plan, track: Variant, masked: Masked, maps: str, last: Masked | None
) -> Make:
    """A training whose network makes the maps of the next fraction.

    Args:
        plan: the options.
        track: the recursive track.
        masked: what is trained on.
        maps: node of the maps.
        last: the training before; None at the smallest fraction.
    """

    def make(done: Done) -> Cell:
        spec = _on_masked(plan, done, track, masked, maps)
        if last is not None:
            spec["cuts"] = [masked.fraction]
        if masked.fraction != plan.fractions[-1]:
            spec["keep"] = True
        return Cell(masked.kind, spec)

    return make


def has_dual(plan: Plan, method: str, fraction: float) -> bool:
    """Whether another training of the plan is the same experiment, in the other mode."""
    both = set(plan.modes) == {"roar", "kar"}
    return METHODS[method].self_dual and both and round(1.0 - fraction, 10) in plan.fractions


def _on_masked(plan: Plan, done: Done, track: Variant, masked: Masked, maps: str) -> dict[str, Any]:
    dual = masked.kind == "retrain" and masked.mode == "roar" and not track.recursive
    return _common(plan, done) | {
        "recipe": plan.recipe.in_spec(),
        "seed": masked.seed,
        "method": masked.method,
        "parameters": dict(METHODS[masked.method].parameters),
        "maps": done[maps].id,
        "maps_hash": done[maps].hashes["maps"],
        "cuts": list(plan.cuts),
        "mode": masked.mode,
        "fraction": masked.fraction,
        "fill": track.fill,
        "dual": dual and has_dual(plan, masked.method, masked.fraction),
        **track.in_spec,
    }


def _explained(plan: Plan, done: Done, method: str, seed: int | None = None) -> dict[str, Any]:
    """What every cell depends on that applies a method to a frozen network: the first seed's."""
    base = done[explained_name(plan, seed)]
    return _common(plan, done) | {
        "base": base.id,
        "base_hash": base.hashes["model"],
        "method": method,
        "parameters": dict(METHODS[method].parameters),
    }


def _common(plan: Plan, done: Done) -> dict[str, Any]:
    data = done["data"]
    return {"data": data.id, "data_hash": data.hashes["data"], "model": plan.model}


def _named(plan: Plan, track: Variant, name: str) -> str:
    first = track == plan.tracks[0]
    return name if first else f"{name} [{track.title or 'as the protocol'}]"
