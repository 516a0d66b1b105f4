"""The trial of a network: rates follow the network, and a batch that does not fit is halved."""

from __future__ import annotations

import sys
import time
import types
from dataclasses import replace
from importlib.metadata import version

import pytest
import torch
from torch import nn

from comparisons.engines.resources import Resources
from comparisons.estimates.throughput import measured
from comparisons.estimates.trial import try_out
from comparisons.plans.plan import Plan
from evaluation.training.retraining import Recipe

pytestmark = pytest.mark.training

PLAN = Plan("shapes", "zoo:make", ("random",), recipe=Recipe(epochs=1, batch_size=16))


class _Paced(nn.Module):
    """Takes so many milliseconds an image, forward alone."""

    def __init__(self, classes: int, ms: float, most: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, classes)
        self.ms, self.most = ms, most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most and self.training:
            raise torch.OutOfMemoryError
        time.sleep(self.ms * len(x) / 1000)
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.fixture
def paced(monkeypatch):
    """A trial of a network that takes a stated time."""
    module = types.ModuleType("zoo")
    monkeypatch.setitem(sys.modules, "zoo", module)

    def call(ms: float = 0.1, most: int = 1000, **changes):
        module.make = lambda classes: _Paced(classes, ms, most)
        plan = replace(PLAN, recipe=replace(PLAN.recipe, **changes))
        return try_out(plan, classes=4, size=(16, 16), resources=Resources(), seconds=2.0)

    return call


def test_rates_are_those_of_the_network(paced):
    slow, fast = paced(ms=4.0).rates, paced(ms=1.0).rates
    # Nothing else takes long, so that all three are four times as fast, less what is fixed.
    for name in ("training", "forward", "gradient"):
        assert 2.0 < getattr(fast, name) / getattr(slow, name) < 6.0
        # A wait is never shorter than asked for.
        assert getattr(slow, name) < 1000 / 4 * 1.01


def test_a_batch_that_does_not_fit_is_halved_and_said(paced):
    trial = paced(most=8)
    assert trial.batch == 8
    assert trial.notes == ("batch 8 in place of 16: 16 does not fit",)
    assert paced(most=16).notes == ()


def test_a_slow_network_is_tried_with_a_smaller_batch(paced):
    trial = paced(ms=20.0, batch_size=4096)
    assert trial.batch < 64
    assert trial.notes == (f"batch {trial.batch} in place of 4096, to keep the trial short",)


def test_where_the_numbers_come_from_is_kept():
    plan = replace(PLAN, model="resnet9")
    found = measured(plan, classes=8, size=(16, 16), resources=Resources(), seconds=0.5)
    assert found.source == "measured"
    assert found.environment["torch"] == version("torch")
    assert found.environment["threads"] == 1
    assert found.device == found.environment["processor"]
    assert found.words.startswith(f"measured on {found.device}, batch {found.batch}: ")
