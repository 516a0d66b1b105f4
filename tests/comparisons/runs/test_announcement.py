"""The hours that a run announces, and the trial that they come of."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from comparisons.engines.select import Engine
from comparisons.estimates.throughput import Throughput
from comparisons.graph.nodes import build_nodes
from comparisons.methods.work import Rates
from comparisons.runs import compare
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from evaluation.training.recipe import Recipe

SMALL = ("batch 4 in place of 32, to keep the trial short",)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("shapes", Request(train_images=64, test_images=32, image_size=16, seed=0))


def _announced(plan, dataset, trials, monkeypatch, tmp_path):
    """What a run says before it starts, and the seconds of each trial that it made."""
    seconds: list[float] = []

    def measured(*_, **options):
        seconds.append(options["seconds"])
        rate, notes = trials[len(seconds) - 1]
        return Throughput(Rates(rate, rate, rate), "measured", "a device", 32, notes)

    monkeypatch.setattr(compare, "measured", measured)
    said = StringIO()
    console = Console(file=said, width=300)
    run = compare._Comparison(plan, tmp_path, Engine(workers=1), "a command", console)
    nodes = build_nodes(plan, train_images=64, test_images=32)
    with run.engine.running(run.store) as executor:
        run.announce(nodes, dataset, executor)
    return said.getvalue(), seconds


@pytest.fixture
def plan(make_tiny_plan):
    return replace(make_tiny_plan("centre"), recipe=Recipe(epochs=40, batch_size=32))


# Four trainings of 40 epochs of 64 images, three tests and one more look at all: (10,240 + 224)
# images, at the rate of the last trial.
@pytest.mark.parametrize(
    ("trials", "made", "takes"),
    [
        pytest.param([(1.0, SMALL), (50.0, ())], 2, "3 min", id="minutes by the long trial"),
        pytest.param([(1.0, SMALL), (1.5, SMALL)], 2, "1.9 h", id="hours by both"),
        pytest.param([(1.0, ())], 1, "2.9 h", id="hours by the plan's own batch"),
        pytest.param([(50.0, SMALL)], 1, "3 min", id="minutes by a small batch"),
    ],
)
def test_hours_by_a_small_batch_are_tried_again(
    plan, dataset, trials, made, takes, monkeypatch, tmp_path
):
    said, seconds = _announced(plan, dataset, trials, monkeypatch, tmp_path)
    assert seconds == [2.0, 45.0][:made]
    assert f"about {takes} with 1 worker" in said
    assert ("This needs hours" in said) is takes.endswith("h")
