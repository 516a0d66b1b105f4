"""Measures of maps by themselves, and against maps of changed networks."""

from __future__ import annotations

from collections.abc import Iterator

from comparisons.measures.registry import Finding, measure
from comparisons.measures.sample import Sample
from evaluation.metrics import complexity
from evaluation.metrics.localisation import mass_in_object
from evaluation.metrics.randomisation import (
    randomised_from_output,
    rank_correlation,
    structural_similarities,
)

__all__: list[str] = []


@measure("localisation", "mass in the object", needs_object_masks=True)
def _localisation(sample: Sample) -> Iterator[Finding]:
    masks = sample.batch.object_mask
    if masks is not None:
        yield Finding("mass_in_object", mass_in_object(sample.saliency, masks.cpu().numpy()))


@measure("weights", "sanity check: weights randomised from the output on", maps=7)
def _weights(sample: Sample) -> Iterator[Finding]:
    for stage, network in randomised_from_output(sample.network, sample.untrained()):
        changed = sample.explained_changed(network)
        yield Finding("weights_spearman", rank_correlation(sample.saliency, changed), stage)
        yield Finding("weights_ssim", structural_similarities(sample.saliency, changed), stage)


@measure("labels", "sanity check: trained on permuted labels", maps=2, needs_permuted=True)
def _labels(sample: Sample) -> Iterator[Finding]:
    if sample.permuted is not None:
        changed = sample.explained_changed(sample.permuted)
        yield Finding("labels_spearman", rank_correlation(sample.saliency, changed))
        yield Finding("labels_ssim", structural_similarities(sample.saliency, changed))


@measure("descriptions", "total variation and file size")
def _descriptions(sample: Sample) -> Iterator[Finding]:
    yield Finding("total_variation", complexity.total_variation(sample.saliency))
    yield Finding("png_bytes", complexity.png_bytes(sample.saliency))
