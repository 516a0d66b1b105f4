"""Time that `fastsal.watch` adds to a training step, at samples and between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.deployment.exported import patches
from evaluation.hardware import machine_facts
from evaluation.networks.build import build_network
from evaluation.profiling.timing import added_time
from fastsal import watch

NETWORK, SIZE, IMAGES, ROUNDS, THREADS = "resnet50", 224, 4, 11, 1
# With the second no pass is sampled while it is timed.
EVERY = (1, 1_000_000)
CALLS = 1000
PACKAGES = ("fastsal", "torch", "numba")


def rows() -> Iterator[dict[str, object]]:
    """Yield a row for each interval between samples."""
    facts = machine_facts(PACKAGES)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    for every in EVERY:
        model = build_network(NETWORK, 1000, 0, size=(SIZE, SIZE)).train()
        step = training_step(model, patches(IMAGES, SIZE, 0))
        taken = added_time(step, _watched(model, every, step), ROUNDS)
        yield {
            "network": NETWORK,
            "images": IMAGES,
            "size": SIZE,
            "every": every,
            "threads": THREADS,
            "rounds": ROUNDS,
            "step_ms": round(taken.first_ms, 1),
            "step_processor_ms": round(taken.first_processor_ms, 1),
            **{
                f"{kind}_{end}_percent": round(getattr(interval, end), 2)
                for kind, interval in (("clock", taken.clock), ("processor", taken.processor))
                for end in ("median", "low", "high")
            },
            "hook_microseconds": round(hook_microseconds(), 2),
            **facts,
        }
    torch.set_num_threads(before)


def training_step(model: nn.Module, images: Tensor) -> Any:
    """Return a function that trains one step on one batch."""
    labels = torch.arange(len(images))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _watched(model: nn.Module, every: int, step: Any) -> Any:
    """Return the step with the model watched, after its scales were found and its first sample."""
    watched = watch(model, every)
    with watched:
        step(), step()

    def run() -> None:
        with watched:
            step()

    return run


def hook_microseconds() -> float:
    """Return the time that a pass takes longer between samples: that of one hook, which counts.

    It does not depend on the network, and is measured on one of a single ReLU.
    """
    model, image = nn.Sequential(nn.ReLU()), torch.zeros(1, 3, 8, 8)
    watched = watch(model, EVERY[-1], layers="0")
    with watched:
        model(image)

    def calls() -> None:
        for _ in range(CALLS):
            model(image)

    def run() -> None:
        with watched:
            calls()

    taken = added_time(calls, run, 21)
    return taken.first_processor_ms * taken.processor.median / 100 * 1000 / CALLS
