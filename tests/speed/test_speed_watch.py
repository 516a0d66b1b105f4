"""A training step that is watched beside the bare one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from statistics import median

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluation.networks.build import build_network
from fastsal import watch

pytestmark = pytest.mark.training

# None is the bare loop; of the last no pass is read while it is timed.
EVERY = {"bare": None, "every=1": 1, "every=100000": 100_000}


def step(model: nn.Module, size: int, images: int) -> Callable[[], float]:
    """Return one step of training on a batch that lies ready."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(images, 3, size, size, generator=generator)
    labels = torch.arange(images) % 10
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def run() -> float:
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return run


def watched(run: Callable[[], float], model: nn.Module, every: int | None) -> ExitStack:
    """Return a context in which the model is watched, its scales found and its first pass read."""
    context = ExitStack()
    if every is not None:
        context.enter_context(watch(model, every))
        run(), run()
    return context


@pytest.mark.parametrize("kind", EVERY)
def test_training_step(measure, timed, kind):
    name, size, images = ("resnet50", 224, 8) if timed else ("resnet9", 16, 2)
    model = build_network(name, 10, 0, size=(size, size)).train()
    run = step(model, size, images)
    with watched(run, model, EVERY[kind]):
        loss = measure(f"training step, {name}, {size} x {size}", run, rounds=7, images=images)
    assert loss > 0


@pytest.mark.slow
def test_watching_every_step_costs_at_most_a_fiftieth():
    model = build_network("resnet50", 10, 0, size=(224, 224)).train()
    run = step(model, 224, 8)
    watches = {kind: watch(model, every) for kind, every in EVERY.items() if every is not None}
    for one in watches.values():
        with one:
            run(), run()
    # In turns, so that what the machine does besides hits all; the median of the pairs' ratios.
    ratios: dict[str, list[float]] = {kind: [] for kind in watches}
    for turn in range(14):
        seconds = {}
        for kind in list(EVERY)[:: 1 if turn % 2 else -1]:
            with watches.get(kind) or nullcontext():
                started = time.perf_counter()
                run()
                seconds[kind] = time.perf_counter() - started
        for kind, found in ratios.items():
            found.append(seconds[kind] / seconds["bare"])
    print({kind: [round(ratio, 4) for ratio in sorted(found)] for kind, found in ratios.items()})
    assert median(ratios["every=1"]) < 1.02
    assert median(ratios["every=100000"]) < 1.01
