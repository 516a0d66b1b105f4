"""Names of a plan's nodes, as progress lines and messages show them."""

from __future__ import annotations

from dataclasses import dataclass

from comparisons.plans.plan import Plan
from evaluation.masking.levels import Mode
from evaluation.masking.variants import Variant

__all__ = ["Masked", "Names"]


@dataclass(frozen=True)
class Masked:
    """A training on masked images: its method, mode, fraction and seed.

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


@dataclass(frozen=True)
class Names:
    """Names of the nodes of a plan.

    Args:
        plan: the options.

    >>> plan = Plan("shapes", "resnet9", ("sobel",), variants=(Variant(fill="noisy-linear"),))
    >>> names = Names(plan)
    >>> names.explained(), names.maps(plan.variants[0], "sobel")
    ('unmasked, seed 0', 'maps of sobel [fill noisy-linear]')
    """

    plan: Plan

    def base(self, seed: int) -> str:
        """Return the name of the training on whole images."""
        return f"unmasked, seed {seed}"

    def explained(self, seed: int | None = None) -> str:
        """Return the name of the node whose network the maps explain.

        Args:
            seed: of the network; None for the first one.
        """
        if self.plan.weights is not None:
            return "given weights"
        return self.base(self.plan.seeds[0] if seed is None else seed)

    def permuted(self, seed: int) -> str:
        """Return the name of the training on permuted labels."""
        return f"labels permuted, seed {seed}"

    def fine_tuned(self, measure: str, seed: int) -> str:
        """Return the name of the fine-tuning that a measure's network comes from."""
        return f"fine-tuned for {measure}, seed {seed}"

    def folds(self, folds: int) -> list[str]:
        """Return the names of the trainings that each leave out one fold."""
        return [f"unmasked without fold {fold + 1} of {folds}" for fold in range(folds)]

    def maps(self, variant: Variant, method: str) -> str:
        """Return the name of a method's maps in a variant."""
        return self._in_variant(variant, f"maps of {method}")

    def part(self, maps: str, place: int, parts: int) -> str:
        """Return the name of a part of maps, counted from 0."""
        return f"{maps}, part {place + 1} of {parts}"

    def next_maps(self, variant: Variant, last: Masked) -> str:
        """Return the name of the maps by the network that was retrained at a fraction."""
        after = f"after {100 * last.fraction:g} %, seed {last.seed}"
        return self._in_variant(variant, f"maps of {last.method} {after}")

    def training(self, variant: Variant, masked: Masked) -> str:
        """Return the name of a training on masked images."""
        words = "mask only, " if masked.kind == "mask_only" else ""
        what = f"{words}{masked.mode} {100 * masked.fraction:g} %, seed {masked.seed}"
        return self._in_variant(variant, f"{masked.method}, {what}")

    def _in_variant(self, variant: Variant, name: str) -> str:
        first = variant == self.plan.all_variants[0]
        return name if first else f"{name} [{variant.title or 'as the protocol'}]"
