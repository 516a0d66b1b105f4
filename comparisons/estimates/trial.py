"""A trial of a plan's network on this device: images a second, with the code of a run.

Images, levels and labels are random: neither time nor memory depends on their content.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.engines.resources import Resources
from comparisons.engines.worker import set_up_worker
from comparisons.methods import Batch, get_method
from comparisons.methods.work import Rates
from comparisons.plans.plan import Plan
from evaluation.datasets.load import channels_of
from evaluation.masking.level_files import CHUNK_IMAGES
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.resident import Residence
from evaluation.masking.views import InputView
from evaluation.metrics.passes import forward_in
from evaluation.networks.build import build_network
from evaluation.networks.grid_networks import channels_last_of
from evaluation.training.retraining import Recipe, predictions, train
from fastsal.optional import one_line

__all__ = ["Trial", "TrialFailed", "try_out"]

_SAMPLES = 5
_STEPS = 4
# Shares of the time for the batch size, training, testing and gradients; the rest is ranking.
_FINDING, _TRAINING, _FORWARD, _GRADIENT = 0.2, 0.4, 0.1, 0.2
_FIRST_BATCH = 4
_MOST_FORWARD = 2000
# A training step takes three forward passes.
_PASSES_OF_TRAINING = 3.0
_RANKED = 16
# One forward and one backward pass; other gradient methods take multiples of it.
_ONE_GRADIENT = "gradient"
# So small that the loss cannot overflow on random images; time does not depend on it.
_LEARNING_RATE = 1e-6
_MEAN, _STD = 0.5, 0.25


@dataclass(frozen=True)
class Trial:
    """The result of a trial.

    Args:
        rates: images a second.
        batch: images of a training step on one device.
        notes: deviations from the plan, in words.
    """

    rates: Rates
    batch: int
    notes: tuple[str, ...] = ()


class TrialFailed(ValueError):
    """Error of a trial, which says nothing of methods that it did not try."""


class _Enough(Exception):
    """Ends a training whose time is known."""


def try_out(
    plan: Plan,
    *,
    classes: int,
    size: tuple[int, ...],
    resources: Resources,
    seconds: float = 45.0,
) -> Trial:
    """Train, test, explain and rank a few random images, as a worker does.

    A plan that trains nothing is not tried in training; its images of a pass are those of a test.

    Each rate is the median of a few samples after a warm-up; a sample of training is an epoch of a
    few steps. The batch is smaller than the plan's on a slow device, or if the plan's does not fit
    into memory: the notes say so.

    Args:
        plan: the options.
        classes: number of classes.
        size: height and width of the images; of volumes three sides, of signals one.
        resources: of a worker.
        seconds: approximate length of the trial; slow networks and compilation take longer.

    Raises:
        ValueError: the network cannot be used.
        TrialFailed: it cannot be trained or explained; the message has PyTorch's reason.
    """
    channels = channels_of(plan.data)
    network = build_network(plan.model, plan.outputs(classes), 0, size=size, channels=channels)
    threads_before = torch.get_num_threads()
    device = resources.device
    set_up_worker(resources.threads, resources.memory_budget_mib)
    try:
        training, batch = float("inf"), _FIRST_BATCH
        notes: tuple[str, ...] = ()
        if plan.modes or plan.weights is None:
            batch, notes = _batch(plan, network, classes, size, device, seconds * _FINDING)
            view, labels = _images(plan, _STEPS * batch, size, classes)
            recipe = replace(plan.recipe, batch_size=batch, ranks=1)
            epochs = _epochs(network, view, labels, recipe, device, seconds * _TRAINING)
            training = len(labels) / median(epochs)
            paced = training
        else:
            network.to(device)
            view, _ = _images(plan, _FIRST_BATCH, size, classes)
            first = _rate(_FIRST_BATCH, lambda: predictions(network, view, device=device), 0.0)
            paced = first / _PASSES_OF_TRAINING
        tested = _at_most(seconds * _FORWARD * paced, _MOST_FORWARD)
        view, _ = _images(plan, tested, size, classes)
        forward = _rate(tested, _testing(plan, network, view, tested, device), seconds * _FORWARD)
        explained = _at_most(seconds * _GRADIENT / 2 * paced, CHUNK_IMAGES)
        example = _example(view, explained, device)
        # In the form in which cells that make maps use it.
        memory_format = channels_last_of(len(size))
        frozen = network.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]
        explain = get_method(_ONE_GRADIENT).prepare(frozen)
        gradient = _rate(len(example.index), lambda: explain(example).cpu(), seconds * _GRADIENT)
        ranking = _rate(_RANKED, _ranking(plan, size), seconds)
    except (RuntimeError, FloatingPointError) as error:
        raise TrialFailed(f"a trial of model {plan.model!r} failed: {one_line(error)}") from error
    finally:
        torch.set_num_threads(threads_before)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
    return Trial(Rates(training, forward, gradient, ranking), batch, notes)


def _batch(
    plan: Plan,
    network: nn.Module,
    classes: int,
    size: tuple[int, ...],
    device: str,
    seconds: float,
) -> tuple[int, tuple[str, ...]]:
    """The largest batch up to the plan's that fits into memory and time, with notes."""
    wanted = max(1, plan.recipe.batch_size // plan.recipe.ranks)
    # Compiling for each batch would take minutes.
    recipe = replace(plan.recipe, ranks=1, compile=False)
    batch, started = min(_FIRST_BATCH, wanted), time.perf_counter()
    while True:
        view, labels = _images(plan, batch, size, classes)
        try:
            step = _epochs(network, view, labels, replace(recipe, batch_size=batch), device, 0.0)[
                -1
            ]
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            smaller = max(1, batch // 2)
            return smaller, (f"batch {smaller} in place of {wanted}: {batch} does not fit",)
        left = seconds - (time.perf_counter() - started)
        if batch == wanted:
            return batch, ()
        # The next batch takes a warm-up and a sample, each at most twice as long.
        if 4 * step > left:
            return batch, (f"batch {batch} in place of {wanted}, to keep the trial short",)
        batch = min(2 * batch, wanted)


def _epochs(
    network: nn.Module,
    view: InputView,
    labels: NDArray[np.int64],
    recipe: Recipe,
    device: str,
    seconds: float,
) -> list[float]:
    """Seconds of epochs after a first one that warms up: one at least, more as time allows."""
    times = [time.perf_counter()]

    def on_epoch(*_: object) -> None:
        _wait_for(device)
        times.append(time.perf_counter())
        enough = len(times) > _SAMPLES + 1 or times[-1] - times[0] > seconds
        if len(times) > 2 and enough:
            raise _Enough

    long = replace(recipe, epochs=max(recipe.epochs, _SAMPLES + 1), learning_rate=_LEARNING_RATE)
    (placed,) = Residence(device).views(view)
    with suppress(_Enough):
        train(network, placed, labels, long, 0, device=device, on_epoch=on_epoch)
    return [float(epoch) for epoch in np.diff(times)[1:]]


def _rate(images: int, work: Callable[[], object], seconds: float) -> float:
    """Images a second: the median of a few calls after a warm-up."""
    started = time.perf_counter()
    work()
    samples: list[float] = []
    while not samples or (len(samples) < _SAMPLES and time.perf_counter() - started < seconds):
        before = time.perf_counter()
        work()
        samples.append(time.perf_counter() - before)
    return images / median(samples)


def _images(
    plan: Plan, n: int, size: tuple[int, ...], classes: int
) -> tuple[InputView, NDArray[np.int64]]:
    """Random images with random levels, and random labels."""
    rng = np.random.default_rng(0)
    cuts, channels = plan.cuts, channels_of(plan.data)
    view = InputView(
        rng.integers(0, 256, (n, *size, channels), dtype=np.uint8),
        (_MEAN,) * channels,
        (_STD,) * channels,
        rng.integers(0, len(cuts) + 1, (n, *size), dtype=np.uint8),
        Masking("roar", cuts[0], cuts, "mean"),
    )
    return view, rng.integers(0, classes, n)


def _example(view: InputView, n: int, device: str) -> Batch:
    indices = np.arange(min(n, len(view)))
    return Batch(
        inputs=view(indices).contiguous().to(device),
        target=torch.zeros(len(indices), dtype=torch.int64, device=device),
        index=torch.from_numpy(indices),
        input_range=1.0 / _STD,
        black=(-_MEAN / _STD,) * len(view.mean),
    )


def _testing(
    plan: Plan, network: nn.Module, view: InputView, n: int, device: str
) -> Callable[[], object]:
    """The forward passes of a test, or of measures in another engine if they are all there is."""
    if plan.modes or plan.passes_in == "torch":
        return lambda: predictions(network, view, device=device)
    inputs = _example(view, n, device).inputs
    passes = forward_in(plan.passes_in, network.eval(), inputs)
    parts = [inputs[i : i + _RANKED] for i in range(0, len(inputs), _RANKED)]
    return lambda: [passes(part) for part in parts]


def _ranking(plan: Plan, size: tuple[int, ...]) -> Callable[[], object]:
    maps = np.random.default_rng(0).random((_RANKED, *size), dtype=np.float32)
    return lambda: saliency_levels(maps, plan.cuts, np.arange(_RANKED))


def _at_most(images: float, most: int) -> int:
    return int(min(max(images, 1), most))


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
