"""Measures that need no retraining of each method, in one registry.

To add a measure, decorate a function that takes a `Sample` and yields its numbers, one an image;
their metrics are defined in `evaluation.storage.records`.
"""

# Importing these registers their measures, in this order.
from comparisons.measures import answers, maps  # noqa: F401
from comparisons.measures.registry import MEASURES, Finding, Measure, resolve_measures
from comparisons.measures.sample import USUAL_STEPS, Sample, area_shares, check_steps, road_shares

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
