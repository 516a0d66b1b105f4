"""What a plan will take: its work counted, and a short trial of the network on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from comparisons.graph import Node
from comparisons.plan import Plan
from evaluation.networks import build_network

__all__ = ["Estimate", "estimate"]

# Kinds of cells that train a network.
_TRAININGS = ("base", "fold", "permuted", "retrain", "mask_only")


@dataclass(frozen=True)
class Estimate:
    """What a plan will take on this machine.

    Args:
        trainings: networks to train.
        training_images: images through them, all epochs counted.
        attribution_passes: images through the network for all maps, each with its gradient.
        disk_bytes: images and staged levels; compressed levels take less.
        seconds: time, from a short trial of the network on this machine.
    """

    trainings: int
    training_images: int
    attribution_passes: int
    disk_bytes: int
    seconds: float


def estimate(
    plan: Plan,
    nodes: list[Node],
    *,
    classes: int,
    size: tuple[int, int],
    images: int,
    workers: int,
) -> Estimate:
    """Count the work of a plan, and time a few training steps to say how long it takes.

    Args:
        plan: the options.
        nodes: its cells, finished ones left out.
        classes: number of classes.
        size: height and width of the images.
        images: training and test images together.
        workers: processes that share the work.
    """
    trained = [node.passes for node in nodes if node.stage in _TRAININGS]
    passes = sum(node.passes for node in nodes if node.stage in ("maps", "part", "measure"))
    maps = sum(node.stage == "maps" for node in nodes)
    pixels = size[0] * size[1]
    seconds_per_image = _time_training_step(plan, classes, size)
    return Estimate(
        trainings=len(trained),
        training_images=sum(trained),
        attribution_passes=passes,
        disk_bytes=images * pixels * (3 + maps),
        seconds=(sum(trained) + passes) * seconds_per_image / workers,
    )


def _time_training_step(plan: Plan, classes: int, size: tuple[int, int]) -> float:
    """Seconds an image of one training step, on one thread; the fastest of a few."""
    network = build_network(plan.model, classes, 0, size=size).train()
    inputs = torch.zeros(plan.recipe.batch_size, 3, *size)
    if plan.recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
        inputs = inputs.to(memory_format=torch.channels_last)
    target = torch.zeros(plan.recipe.batch_size, dtype=torch.int64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    try:
        for _ in range(4):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.recipe.precision == "bfloat16"):
                output = network(inputs)
            logits = output if isinstance(output, torch.Tensor) else output[0]
            F.cross_entropy(logits.float(), target).backward()  # type: ignore[no-untyped-call]
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(seconds) / plan.recipe.batch_size
