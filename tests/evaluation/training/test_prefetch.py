"""Prefetched batches: the same results in order, errors in their place, no thread left."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.masking.views import InputView
from evaluation.training.prefetch import Prefetcher
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import train

LABELS = np.arange(24) % 4


class Slow(InputView):
    """Images that are slow to read, as from a cold disk."""

    seconds = 0.004

    def read(self, indices):
        time.sleep(self.seconds)
        return super().read(indices)


class Broken(InputView):
    """Images of which one cannot be read."""

    def read(self, indices):
        if 5 in indices:
            raise OSError("image 5 is gone")
        return super().read(indices)


def _view(kind: type[InputView] = InputView) -> InputView:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    return kind(images, (0.5,) * 3, (0.25,) * 3)


def _network(seconds: float = 0.0) -> nn.Module:
    class Working(nn.Flatten):
        def forward(self, x):
            time.sleep(seconds)
            return super().forward(x)

    torch.manual_seed(0)
    return nn.Sequential(Working(), nn.Linear(192, 4))


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_results_come_in_order_however_long_each_takes(depth):
    waits = [0.01, 0.0, 0.02, 0.0, 0.005, 0.0]

    def job(number: int) -> int:
        time.sleep(waits[number])
        return number

    with Prefetcher[int](depth) as ahead:
        jobs = ((lambda number=number: job(number)) for number in range(6))
        assert list(ahead.over(jobs)) == list(range(6))
    assert _threads() == []


def test_no_more_is_read_than_was_asked_for():
    started = []
    with Prefetcher[int](2) as ahead:
        results = ahead.over((lambda n=n: started.append(n) or n) for n in range(10))
        assert next(results) == 0
        time.sleep(0.05)
        assert sorted(started) == [0, 1, 2]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_training_is_the_same_to_the_last_byte(depth):
    hashes = {
        train(_network(), _view(), LABELS, Recipe(3, 5, 0.01), 0, prefetch=ahead).model_hash
        for ahead in (0, depth)
    }
    assert len(hashes) == 1


@pytest.mark.heavy
def test_a_training_that_works_while_others_read_waits_less():
    # Each step takes as long as a batch takes to be read: nearly all of the wait is hidden.
    waits = []
    for depth in (0, 2):
        network = _network(2 * Slow.seconds)
        training = train(network, _view(Slow), LABELS, Recipe(4, 2, 0.01), 0, prefetch=depth)
        waits.append(sum(entry["wait_seconds"] for entry in training.history))
        assert 0 < training.wait_share < 1
        assert all(entry["wait_seconds"] <= entry["seconds"] for entry in training.history)
    assert waits[0] >= 4 * 12 * Slow.seconds
    assert waits[1] < 0.6 * waits[0]


@pytest.mark.parametrize("depth", [0, 2])
def test_what_fails_in_reading_is_raised_in_training(depth):
    with pytest.raises(OSError, match="image 5 is gone"):
        train(_network(), _view(Broken), LABELS, Recipe(1, 4, 0.01), 0, prefetch=depth)
    assert _threads() == []


def test_an_interrupted_training_leaves_no_thread():
    def interrupt(epoch: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_network(), _view(Slow), LABELS, Recipe(2, 4, 0.01), 0, on_epoch=interrupt)
    assert _threads() == []
