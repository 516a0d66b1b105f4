"""Masked training beside plain training beside a bare loop over the same network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evaluation.datasets.load import Request, load_dataset
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.training.retraining import Recipe, default_precision, train

pytestmark = pytest.mark.training

IMAGES = 512
RECIPE = Recipe(epochs=1, precision=default_precision("cpu"))
RESIZED = replace(RECIPE, crop_padding=0, resized_crop=0.08)
CUTS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loops() -> dict[str, Callable[[], object]]:
    """One epoch of each kind, ready to run."""
    split = (dataset := load_dataset("shapes", Request(train_images=IMAGES, test_images=8))).train
    saliency = np.random.default_rng(0).random(split.images.shape[:3])
    levels = saliency_levels(saliency, CUTS, np.arange(IMAGES))
    plain = InputView(split.images, dataset.mean, dataset.std)
    masked = InputView(split.images, dataset.mean, dataset.std, levels, Masking("roar", 0.5, CUTS))
    inputs = plain(np.arange(IMAGES)).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(split.labels)

    def network() -> torch.nn.Module:
        return build_network("resnet9", 8, 0, size=(32, 32))

    def bare() -> None:
        """The same steps on tensors that are ready: no masks, no crops, no bookkeeping."""
        model = network().to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(
            model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        for batch, target in zip(inputs.split(64), labels.split(64), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=RECIPE.precision == "bfloat16"):
                logits = model(batch)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return {
        "bare": bare,
        "plain": lambda: train(network(), plain, split.labels, RECIPE, 0),
        "masked": lambda: train(network(), masked, split.labels, RECIPE, 0),
        "masked, not read ahead": lambda: train(
            network(), masked, split.labels, RECIPE, 0, prefetch=0
        ),
        "masked, crops resized": lambda: train(network(), masked, split.labels, RESIZED, 0),
    }


@pytest.mark.parametrize(
    "kind", ["bare", "plain", "masked", "masked, not read ahead", "masked, crops resized"]
)
def test_training(benchmark, loops, kind):
    benchmark.group = f"one epoch of {IMAGES} images, ResNet-9, one thread"
    benchmark.extra_info["images"] = IMAGES
    benchmark.pedantic(loops[kind], rounds=5, warmup_rounds=1)


def _ratio(loops: dict[str, Callable[[], object]], one: str, other: str) -> float:
    """Processor time of one kind over another's: a wait is not a cost.

    In turns, so that what the machine does besides hits both; the median of the pairs' ratios.
    """
    loops[one](), loops[other]()
    ratios = []
    for turn in range(9):
        seconds = {}
        for kind in (one, other) if turn % 2 else (other, one):
            started = time.process_time()
            loops[kind]()
            seconds[kind] = time.process_time() - started
        ratios.append(seconds[one] / seconds[other])
    return median(ratios)


@pytest.mark.slow
def test_masking_costs_at_most_a_tenth(loops):
    assert _ratio(loops, "masked", "plain") < 1.10


@pytest.mark.slow
def test_the_harness_keeps_up_with_a_bare_loop(loops):
    # Reading, cropping and flipping included, beside tensors that lie ready.
    assert _ratio(loops, "plain", "bare") < 1.15


@pytest.mark.slow
def test_reading_ahead_costs_next_to_nothing(loops):
    # On one thread, with images in memory: where there is nothing to gain.
    assert _ratio(loops, "masked", "masked, not read ahead") < 1.05
