"""A method of the comparison, and the batch of images that it explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from comparisons.methods.work import Work
from evaluation.datasets.grids import GRIDS

__all__ = [
    "GROUPS",
    "PAPER",
    "Batch",
    "Explain",
    "Group",
    "Method",
    "Prepare",
    "check_axes",
]

# The citation of SMOE Scale and Fast-CAM.
PAPER = "Mundhenk, Chen and Friedland 2020"

Group = Literal["control", "smoe", "activation", "cam", "gradient"]
GROUPS: tuple[Group, ...] = ("control", "smoe", "activation", "cam", "gradient")


def check_axes(what: str, allowed: tuple[int, ...], axes: int) -> None:
    """Refuse what is not for inputs of a number of axes.

    Args:
        what: a method or a measure, in words.
        allowed: the numbers of axes that it is for.
        axes: of the data.

    Raises:
        ValueError: it is not for them; says what it is for.

    >>> check_axes("method 'sobel'", (2,), 2)
    """
    if axes not in allowed:
        known = " and ".join(GRIDS[each].samples for each in allowed)
        raise ValueError(
            f"{what} is for {known}, and these inputs are {GRIDS[axes].samples}: leave it out"
        )


@dataclass(frozen=True)
class Batch:
    """A batch of images as a method gets it.

    Args:
        inputs: ``(N, 3, H, W)``, normalised as the network expects; volumes are
            ``(N, C, D, H, W)``, signals ``(N, C, T)``.
        target: ``(N,)``, the class to explain: the frozen model's prediction.
        index: ``(N,)``, the place of each image in the image set; seeds random methods.
        input_range: distance between black and white in `inputs`, the unit of noise.
        black: a black pixel in `inputs`, one value a channel.
        object_mask: ``(N, H, W)`` bool, the true object, of the axes of the inputs; None if the
            data has no masks.
    """

    inputs: Tensor
    target: Tensor
    index: Tensor
    input_range: float
    black: tuple[float, ...]
    object_mask: Tensor | None = None


Explain = Callable[[Batch], Tensor]


class Prepare(Protocol):
    """Set up a method for a model, once; returns a function that explains batches."""

    def __call__(self, model: nn.Module) -> Explain:
        """Return a function from a batch to saliency ``(N, H, W)``, higher for more salient."""


@dataclass(frozen=True)
class Method:
    """A saliency method of the comparison.

    Args:
        name: key of the registry, as the command takes it.
        title: its name in reports.
        group: ``control``, ``smoe``, ``activation``, ``cam`` or ``gradient``.
        citation: its authors and year.
        parameters: its options; recorded with every number. ``reduction`` says
            what happened to sign and channels: ``abs_sum``, ``sq_sum`` or ``signed``.
        prepare: the method itself.
        passes: forward passes an image.
        gradients: of these, how many go back to the input; None for all. The gradient of what
            follows the last scale alone is a small part of a pass and does not count.
        needs_object_mask: True if it needs the object masks of the data.
        self_dual: keeping the top t is the same experiment as removing the top 1 - t.
        scales: for methods that have one map a spatial scale: explains a batch with
            ``(N, R, H, W)``.
        by_channel: for methods whose channels differ: explains a batch with ``(N, 3, H, W)``,
            for masks that remove each channel of a pixel by itself.
        axes: numbers of axes of the inputs that it is for: 2 of images, 3 of volumes, 1 of signals.
    """

    name: str
    title: str
    group: Group
    citation: str
    parameters: Mapping[str, Any]
    prepare: Prepare = field(repr=False)
    passes: int = 0
    needs_object_mask: bool = False
    self_dual: bool = False
    scales: Prepare | None = field(default=None, repr=False)
    by_channel: Prepare | None = field(default=None, repr=False)
    gradients: int | None = None
    axes: tuple[int, ...] = (1, 2, 3)

    @property
    def work(self) -> Work:
        """The work of one image's map, its ranking included."""
        gradients = self.passes if self.gradients is None else self.gradients
        return Work(forward=self.passes - gradients, gradient=gradients, ranking=1)

    @property
    def described(self) -> dict[str, Any]:
        """The method as ``plan.json`` of a run describes it."""
        return {
            "title": self.title,
            "citation": self.citation,
            "parameters": dict(self.parameters),
            "group": self.group,
        }
