"""The registry of measures that need no retraining of each method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comparisons.measures.sample import USUAL_STEPS, Sample
from comparisons.methods import check_axes

__all__ = ["MEASURES", "Finding", "Measure", "measure", "resolve_measures"]


@dataclass(frozen=True)
class Finding:
    """One number for each image.

    Args:
        metric: a key of `evaluation.storage.records.METRICS`.
        values: ``(N,)``.
        layer: the randomised part of the network; None if nothing was randomised.
    """

    metric: str
    values: NDArray[np.floating] | NDArray[np.integer]
    layer: str | None = None


Findings = Callable[[Sample], Iterator[Finding]]


@dataclass(frozen=True)
class Measure:
    """A measure, and what it needs.

    Args:
        name: key of the registry, as the command takes it.
        title: its name in reports.
        take: the measure itself.
        maps: number of maps of each image.
        forwards: number of forward passes of each image beside the maps.
        needs_object_masks: True if it needs the object masks of the data.
        needs_permuted: compares with a network trained on permuted labels.
        in_steps: removes pixels step by step; `forwards` is for `USUAL_STEPS`.
        removal: what random removal the network is fine-tuned with, as
            `evaluation.training.removal.removal` takes it; None if no network is fine-tuned.
        tuned_accuracy: metric of that network's test accuracy.
        axes: numbers of axes of the inputs that it is for: 2 of images, 3 of volumes, 1 of signals.
    """

    name: str
    title: str
    take: Findings
    maps: int
    forwards: int
    needs_object_masks: bool
    needs_permuted: bool
    in_steps: bool = False
    removal: Mapping[str, Any] | None = None
    tuned_accuracy: str = ""
    axes: tuple[int, ...] = (1, 2, 3)

    @property
    def trains(self) -> bool:
        """True if it needs a network beside the explained one, trained or fine-tuned."""
        return self.needs_permuted or self.removal is not None

    def forwards_in(self, steps: int) -> int:
        """Return the number of forward passes of each image, beside the maps, in some steps.

        >>> from comparisons.measures import MEASURES
        >>> MEASURES["road"].forwards_in(USUAL_STEPS), MEASURES["road"].forwards_in(8)
        (19, 8)
        """
        return -(-self.forwards * steps // USUAL_STEPS) if self.in_steps else self.forwards


MEASURES: dict[str, Measure] = {}


def measure(
    name: str,
    title: str,
    *,
    maps: int = 1,
    forwards: int = 0,
    needs_object_masks: bool = False,
    needs_permuted: bool = False,
    in_steps: bool = False,
    removal: Mapping[str, Any] | None = None,
    tuned_accuracy: str = "",
    axes: tuple[int, ...] = (1, 2, 3),
) -> Callable[[Findings], Findings]:
    """Register the decorated function as a measure; options are those of `Measure`."""

    def register(take: Findings) -> Findings:
        needs = needs_object_masks, needs_permuted
        MEASURES[name] = Measure(
            name, title, take, maps, forwards, *needs, in_steps, removal, tuned_accuracy, axes
        )
        return take

    return register


def resolve_measures(
    names: str | None, *, has_object_masks: bool, axes: int = 2
) -> tuple[str, ...]:
    """Return the names of the measures that ``--measures`` lists: all, none, or some.

    Args:
        names: comma-separated, as typed; None for all.
        has_object_masks: True if the data has object masks; if not, measures that need them are
            left out of "all".
        axes: of the data, 2 of images, 3 of volumes, 1 of signals; measures that are not for them
            are left out of "all".

    Raises:
        ValueError: an unknown measure, one that needs object masks, which the data lacks, or one
            that is not for its axes.

    >>> import comparisons.measures
    >>> resolve_measures("road, weights", has_object_masks=False)
    ('road', 'weights')
    >>> resolve_measures("none", has_object_masks=True)
    ()
    """
    if names == "none":
        return ()
    if names in (None, "all"):
        return tuple(
            entry.name
            for entry in MEASURES.values()
            if axes in entry.axes and (has_object_masks or not entry.needs_object_masks)
        )
    chosen = tuple(dict.fromkeys(name.strip() for name in str(names).split(",") if name.strip()))
    for name in chosen:
        if name not in MEASURES:
            raise ValueError(
                f"unknown measure {name!r}: expected all, none, or some of {', '.join(MEASURES)}"
            )
        if MEASURES[name].needs_object_masks and not has_object_masks:
            raise ValueError(
                f"measure {name!r} needs the true object's pixels, which these images do not "
                "have: leave it out, or use --data shapes"
            )
        check_axes(f"measure {name!r}", MEASURES[name].axes, axes)
    if not chosen:
        raise ValueError("no measures given: expected all, none, or at least one name")
    return chosen
