"""Measures of a network's answers as pixels are removed in the order of a map."""

from __future__ import annotations

from collections.abc import Iterator

from comparisons.measures.registry import Finding, measure
from comparisons.measures.sample import USUAL_STEPS, Sample, area_shares, road_shares
from evaluation.metrics.average_drop import average_drop
from evaluation.metrics.fidelity import FidelityOptions, fidelity
from evaluation.metrics.perturbation import with_channel_mean
from evaluation.metrics.single_deletion import deletion_drops, single_deletion_score
from evaluation.storage.records import METRICS

__all__: list[str] = []

_FIDELITY = FidelityOptions()
# Rows, and columns, of the patches of IDSDS: the authors'.
_GRID = 4


@measure(
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


@measure(
    "road",
    "ROAD and the same areas, removed pixels by noisy linear imputation",
    forwards=USUAL_STEPS - 1,
    in_steps=True,
    axes=METRICS["road_most_accuracy"].axes,
)
def _road(sample: Sample) -> Iterator[Finding]:
    most, least = sample.answers(sample.with_noisy_linear(), road_shares(sample.steps))
    if sample.labels is not None:
        yield Finding("road_most_accuracy", most.accuracy(sample.labels))
        yield Finding("road_least_accuracy", least.accuracy(sample.labels))
    yield Finding("deletion_area_noisy_linear", most.area)
    yield Finding("insertion_area_noisy_linear", least.area)


@measure("average-drop", "average drop and increase in confidence", forwards=2)
def _average_drop(sample: Sample) -> Iterator[Finding]:
    found = average_drop(sample.plain, sample.batch.inputs, sample.batch.target, sample.saliency)
    for metric, values in zip(("average_drop", "confidence_increase"), found, strict=True):
        yield Finding(metric, values)


@measure(
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


@measure(
    "idsds",
    "IDSDS, on the network fine-tuned with single patches removed",
    forwards=1 + _GRID**2,
    removal={"removes": "patch", "grid": _GRID},
    tuned_accuracy="idsds_network_accuracy",
    axes=METRICS["idsds"].axes,
)
def _idsds(sample: Sample) -> Iterator[Finding]:
    if sample.fine_tuned is None:
        return
    batch = sample.batch
    drops = deletion_drops(sample.fine_tuned, batch.inputs, batch.target, _GRID)
    # The map of the network whose answers are compared with it, as the authors have it.
    yield Finding("idsds", single_deletion_score(sample.explained(sample.fine_tuned), drops))
