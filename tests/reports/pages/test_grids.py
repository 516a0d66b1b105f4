"""Pages of volumes and signals: their own words, and no advice that a run would refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comparisons.measures import MEASURES
from evaluation.datasets.grids import GRIDS
from evaluation.storage.records import METRICS
from reports.pages.build import render
from reports.records.reading import read_run

RUNS = Path(__file__).parents[3] / "reports" / "runs"


def _words(name: str) -> str:
    page = render(read_run(RUNS / name))
    page = re.sub(r"<(style|script|svg).*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.mark.parametrize(("name", "axes"), [("volumes", 3), ("signals", 1), ("shapes-tracks", 2)])
def test_a_page_has_the_words_of_its_samples(name, axes):
    words, grid = _words(name), GRIDS[axes]
    assert f"over the share of the {grid.elements} removed" in words
    assert f"{grid.samples.capitalize()} masked at each fraction" in words
    assert f"see the order of the {grid.elements} alone" in words
    others = {other.elements for number, other in GRIDS.items() if number != axes}
    assert not any(f"of the {other} " in words for other in others)


@pytest.mark.parametrize(("name", "axes"), [("volumes", 3), ("signals", 1)])
def test_what_cannot_be_measured_is_not_asked_for(name, axes):
    words = _words(name)
    missing = words.partition("Measures without retraining")[2].partition("not measured.")[0]
    refused = [metric.title for metric in METRICS.values() if axes not in metric.axes]
    assert refused
    assert not [title for title in refused if title in missing]
    assert f"no blurred maps and random blobs of {GRIDS[axes].samples}" in words
    assert "+blur to --methods" not in words
    assert "random-blobs to --methods" not in words


def test_metrics_and_the_measures_that_take_them_are_for_the_same_samples():
    assert MEASURES["road"].axes == METRICS["deletion_area_noisy_linear"].axes == (1, 2)
    assert MEASURES["idsds"].axes == METRICS["idsds"].axes == (2,)
    assert MEASURES["insertion-deletion"].axes == METRICS["deletion_area"].axes == (1, 2, 3)
