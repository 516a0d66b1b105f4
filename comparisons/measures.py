"""Measures that need no retraining of each method, in one registry.

To add a measure, decorate a function that takes a `Sample` and yields its numbers, one an image;
their metrics are defined in `evaluation.storage.records`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.methods import Batch, Prepare
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import by_saliency, tie_orders
from evaluation.metrics import complexity
from evaluation.metrics.average_drop import average_drop
from evaluation.metrics.fidelity import FidelityOptions, fidelity
from evaluation.metrics.localisation import mass_in_object
from evaluation.metrics.passes import Forward
from evaluation.metrics.perturbation import (
    PerturbationCurves,
    PerturbFunction,
    perturbation_curves,
    with_channel_mean,
)
from evaluation.metrics.randomisation import (
    randomised_from_output,
    rank_correlation,
    structural_similarities,
)
from evaluation.metrics.single_deletion import deletion_drops, single_deletion_score

__all__ = [
    "MEASURES",
    "USUAL_STEPS",
    "Finding",
    "Measure",
    "Sample",
    "area_shares",
    "check_steps",
    "resolve_measures",
    "road_shares",
]

# Steps of 5 % for the areas, of 10 % for ROAD: its own.
USUAL_STEPS = 20
_TIE_SEED = 0
_FIDELITY = FidelityOptions()
# Rows, and columns, of the patches of IDSDS: the authors'.
_GRID = 4


def check_steps(steps: int) -> None:
    """Refuse a number of steps that ROAD, which takes half as many, cannot halve.

    Raises:
        ValueError: an odd number, or less than 4; says what was expected.
    """
    if steps < 4 or steps % 2:
        raise ValueError(
            f"--measure-steps {steps}: expected an even number of at least 4, such as 20 for steps "
            "of 5 %; ROAD takes half as many"
        )


def area_shares(steps: int) -> tuple[float, ...]:
    """Return the shares of removed pixels of insertion and deletion: from none to all.

    >>> area_shares(4)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    return tuple(round(step / steps, 10) for step in range(steps + 1))


def road_shares(steps: int) -> tuple[float, ...]:
    """Return the shares of removed pixels of ROAD: half as many, short of removing everything.

    >>> road_shares(8)
    (0.0, 0.25, 0.5, 0.75)
    """
    return tuple(round(2 * step / steps, 10) for step in range(steps // 2))


@dataclass(frozen=True)
class Sample:
    """Test images, and a method's maps of them on a frozen network.

    Args:
        prepare: the method.
        network: the trained network that is explained; no measure changes it.
        untrained: returns the same network with initial weights.
        permuted: the same network trained on permuted labels; None if no measure needs it.
        batch: the images as methods get them, the classes explained among it.
        labels: ``(N,)``, the true classes, as outputs of the network; None if it has none of them.
        pixels: ``(N, H, W, 3)`` uint8, the images.
        mean: the training set's channel mean, in [0, 1].
        std: the training set's channel standard deviation, in [0, 1].
        steps: from whole images to empty ones, in measures that remove pixels step by step.
        forward: the network's plain forward pass, if another engine than PyTorch runs it.
        fine_tuned: the network, fine-tuned on images with random holes; None if the measure
            needs none.
    """

    prepare: Prepare
    network: nn.Module
    untrained: Callable[[], nn.Module]
    permuted: nn.Module | None
    batch: Batch
    labels: NDArray[np.int64] | None
    pixels: NDArray[np.uint8]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    steps: int = USUAL_STEPS
    forward: Forward | None = None
    fine_tuned: nn.Module | None = None

    @cached_property
    def saliency(self) -> NDArray[np.floating]:
        """The method's maps on the trained network: ``(N, H, W)``."""
        return self.explained(self.network)

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """The pixels of each map, the most salient first: ``(N, H * W)``."""
        flat = self.saliency.reshape(len(self.saliency), -1)
        return by_saliency(flat, tie_orders(flat.shape[1], self.batch.index.numpy(), _TIE_SEED))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the maps."""
        return self.saliency.shape[1], self.saliency.shape[2]

    @property
    def plain(self) -> Forward:
        """The explained network's plain forward pass, in the engine that runs it."""
        return self.network if self.forward is None else self.forward

    def explained(self, network: nn.Module) -> NDArray[np.floating]:
        """Return the method's maps of the same images and classes on another network."""
        saliency: NDArray[np.floating] = (
            self.prepare(network)(self.batch).detach().float().cpu().numpy()
        )
        if not np.isfinite(saliency).all():
            raise ValueError("a map holds NaN or infinity: no measure can be taken of it")
        return saliency

    def explained_changed(self, network: nn.Module) -> NDArray[np.floating]:
        """Return maps of a randomised network, without the warnings of maps that are all 0."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is 0 everywhere for image")
            return self.explained(network)

    def answers(
        self, shown: PerturbFunction, shares: tuple[float, ...]
    ) -> tuple[PerturbationCurves, PerturbationCurves]:
        """Return the outputs while the most, and the least, salient pixels are removed."""
        of_sample = self.plain, shown, self.batch.target, self.ranked, self.size, shares
        most = perturbation_curves(*of_sample, first="most")
        return most, perturbation_curves(*of_sample, first="least", ends=most)

    def with_noisy_linear(self) -> PerturbFunction:
        """Return a function that fills removed pixels by noisy linear imputation."""
        mean, std = (255.0 * torch.tensor(values) for values in (self.mean, self.std))
        indices = self.batch.index.numpy()

        def shown(kept: NDArray[np.bool_]) -> torch.Tensor:
            filled = torch.from_numpy(noisy_linear(self.pixels, kept, indices))
            return ((filled - mean) / std).permute(0, 3, 1, 2).to(self.batch.inputs.device)

        return shown


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

    @property
    def trains(self) -> bool:
        """True if it needs a network beside the explained one, trained or fine-tuned."""
        return self.needs_permuted or self.removal is not None

    def forwards_in(self, steps: int) -> int:
        """Return the number of forward passes of each image, beside the maps, in some steps.

        >>> MEASURES["road"].forwards_in(USUAL_STEPS), MEASURES["road"].forwards_in(8)
        (19, 8)
        """
        return -(-self.forwards * steps // USUAL_STEPS) if self.in_steps else self.forwards


MEASURES: dict[str, Measure] = {}


def _measure(
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
) -> Callable[[Findings], Findings]:
    def register(take: Findings) -> Findings:
        needs = needs_object_masks, needs_permuted
        MEASURES[name] = Measure(
            name, title, take, maps, forwards, *needs, in_steps, removal, tuned_accuracy
        )
        return take

    return register


@_measure(
    "insertion-deletion",
    "insertion and deletion area, removed pixels at the channel mean",
    # The whole and the empty image are the same in both orders.
    forwards=2 * USUAL_STEPS,
    in_steps=True,
)
def _insertion_deletion(sample: Sample) -> Iterator[Finding]:
    shown = with_channel_mean(sample.batch.inputs)
    most, least = sample.answers(shown, area_shares(sample.steps))
    yield Finding("deletion_area", most.area)
    yield Finding("insertion_area", least.area)


@_measure(
    "road",
    "ROAD and the same areas, removed pixels by noisy linear imputation",
    forwards=USUAL_STEPS - 1,
    in_steps=True,
)
def _road(sample: Sample) -> Iterator[Finding]:
    most, least = sample.answers(sample.with_noisy_linear(), road_shares(sample.steps))
    if sample.labels is not None:
        yield Finding("road_most_accuracy", most.accuracy(sample.labels))
        yield Finding("road_least_accuracy", least.accuracy(sample.labels))
    yield Finding("deletion_area_noisy_linear", most.area)
    yield Finding("insertion_area_noisy_linear", least.area)


@_measure("average-drop", "average drop and increase in confidence", forwards=2)
def _average_drop(sample: Sample) -> Iterator[Finding]:
    found = average_drop(sample.plain, sample.batch.inputs, sample.batch.target, sample.saliency)
    for metric, values in zip(("average_drop", "confidence_increase"), found, strict=True):
        yield Finding(metric, values)


@_measure(
    "f-fidelity",
    "F-Fidelity, on the network fine-tuned with random pixels removed",
    forwards=_FIDELITY.passes,
    removal={"removes": "pixels", "share": _FIDELITY.beta},
    tuned_accuracy="ffid_network_accuracy",
)
def _f_fidelity(sample: Sample) -> Iterator[Finding]:
    if sample.fine_tuned is None:
        return
    drops = fidelity(
        sample.fine_tuned,
        with_channel_mean(sample.batch.inputs),
        sample.batch.target,
        sample.labels,
        sample.ranked,
        sample.size,
        sample.batch.index.numpy(),
        _FIDELITY,
    )
    for part, found in zip(("plus", "minus"), drops, strict=True):
        yield Finding(f"ffid_{part}", found.probability)
        if found.accuracy is not None:
            yield Finding(f"ffid_{part}_accuracy", found.accuracy)


@_measure(
    "idsds",
    "IDSDS, on the network fine-tuned with single patches removed",
    forwards=1 + _GRID**2,
    removal={"removes": "patch", "grid": _GRID},
    tuned_accuracy="idsds_network_accuracy",
)
def _idsds(sample: Sample) -> Iterator[Finding]:
    if sample.fine_tuned is None:
        return
    batch = sample.batch
    drops = deletion_drops(sample.fine_tuned, batch.inputs, batch.target, _GRID)
    # The map of the network whose answers are compared with it, as the authors have it.
    yield Finding("idsds", single_deletion_score(sample.explained(sample.fine_tuned), drops))


@_measure("localisation", "mass in the object", needs_object_masks=True)
def _localisation(sample: Sample) -> Iterator[Finding]:
    masks = sample.batch.object_mask
    if masks is not None:
        yield Finding("mass_in_object", mass_in_object(sample.saliency, masks.cpu().numpy()))


@_measure("weights", "sanity check: weights randomised from the output on", maps=7)
def _weights(sample: Sample) -> Iterator[Finding]:
    for stage, network in randomised_from_output(sample.network, sample.untrained()):
        changed = sample.explained_changed(network)
        yield Finding("weights_spearman", rank_correlation(sample.saliency, changed), stage)
        yield Finding("weights_ssim", structural_similarities(sample.saliency, changed), stage)


@_measure("labels", "sanity check: trained on permuted labels", maps=2, needs_permuted=True)
def _labels(sample: Sample) -> Iterator[Finding]:
    if sample.permuted is not None:
        changed = sample.explained_changed(sample.permuted)
        yield Finding("labels_spearman", rank_correlation(sample.saliency, changed))
        yield Finding("labels_ssim", structural_similarities(sample.saliency, changed))


@_measure("descriptions", "total variation and file size")
def _descriptions(sample: Sample) -> Iterator[Finding]:
    yield Finding("total_variation", complexity.total_variation(sample.saliency))
    yield Finding("png_bytes", complexity.png_bytes(sample.saliency))


def resolve_measures(names: str | None, *, has_object_masks: bool) -> tuple[str, ...]:
    """Return the names of the measures that ``--measures`` lists: all, none, or some.

    Args:
        names: comma-separated, as typed; None for all.
        has_object_masks: True if the data has object masks; if not, measures that need them are
            left out of "all".

    Raises:
        ValueError: an unknown measure, or one that needs object masks, which the data lacks.

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
            if has_object_masks or not entry.needs_object_masks
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
    if not chosen:
        raise ValueError("no measures given: expected all, none, or at least one name")
    return chosen
