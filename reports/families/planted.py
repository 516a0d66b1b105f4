"""The command ``python -m reports.families.planted``: mass of maps in planted volumes and signals.

It trains one small network on each of the sets ``volumes`` and ``signals``, whose objects are
known, and prints a table of the share of each map's mass that lies in the object.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluation.datasets.dataset import Split
from evaluation.datasets.made.signals import make_signals
from evaluation.datasets.made.volumes import make_volumes
from evaluation.masking.views import InputView
from evaluation.metrics.localisation import mass_in_object
from evaluation.training.networks import build_network
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import correctness, train
from fastsal import FastCAM, GradCAM, SMOEScale
from fastsal.maps.resize import upsample


@dataclass(frozen=True)
class Planted:
    """A set with known objects, and the network that is trained on it.

    Args:
        make: draws its two splits.
        counts: the arguments of `make`.
        model: a built-in network.
        epochs: of its training.
        learning_rate: its peak.
    """

    make: Callable[..., tuple[Split, Split]]
    counts: dict[str, int]
    model: str
    epochs: int
    learning_rate: float


PLANTED = {
    "volumes": Planted(make_volumes, {"train": 600, "test": 200, "size": 20}, "convnet-3d", 7, 0.1),
    "signals": Planted(make_signals, {"train": 1500, "test": 300}, "convnet-1d", 8, 0.05),
}


def shares(planted: Planted) -> Iterator[tuple[str, float, float]]:
    """Yield each map's name, the mean share of its mass in the object, and half its 95 % interval.

    The first is the network's accuracy.

    Args:
        planted: the set.
    """
    split, held_out = planted.make(**planted.counts)
    axes = tuple(range(split.images.ndim - 1))
    mean, std = (tuple((of(split.images, axes) / 255).tolist()) for of in (np.mean, np.std))
    views = [InputView(one.images, mean, std) for one in (split, held_out)]
    channels = split.images.shape[-1]
    network = build_network(
        planted.model,
        int(split.labels.max()) + 1,
        0,
        size=split.images.shape[1:-1],
        channels=channels,
    )
    recipe = Recipe(
        epochs=planted.epochs,
        batch_size=32,
        learning_rate=planted.learning_rate,
        crop_padding=0,
        flip=False,
    )
    train(network, views[0], split.labels, recipe, 0)
    right = correctness(network, views[1], held_out.labels).astype(np.float64)
    yield "accuracy", *_interval(right)
    inputs = views[1](np.arange(len(held_out.labels)))
    if held_out.object_masks is None:
        raise ValueError("the set has no object masks")
    for name, maps in _maps(network, inputs):
        yield name, *_interval(mass_in_object(maps.numpy(), held_out.object_masks))


def _maps(network: nn.Module, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    attributors: dict[str, Any] = {
        "SMOE Scale": SMOEScale(network),
        "SMOE Scale, late": SMOEScale(network, "late"),
        "Fast-CAM": FastCAM(network),
    }
    for name, attributor in attributors.items():
        yield name, attributor.attribute(inputs, expand_channels=False)[:, 0]
    size = inputs.shape[2:]
    yield "Grad-CAM", upsample(GradCAM(network).attribute(inputs)[:, 0], size)[:, 0]
    generator = torch.Generator().manual_seed(0)
    yield "random", torch.rand((len(inputs), *size), generator=generator)
    lines = torch.meshgrid(*[torch.arange(n) - (n - 1) / 2 for n in size], indexing="ij")
    distance = torch.stack([line**2 for line in lines]).sum(0).sqrt()
    yield "centre", (-distance).expand(len(inputs), *size)


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.mean()), float(1.96 * values.std(ddof=1) / len(values) ** 0.5)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(prog="python -m reports.families.planted", description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[*PLANTED, []], help="sets; all without any")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.sets or PLANTED:
            print(f"| {name} | share in % | 95 % interval |\n|---|---|---|", flush=True)
            for row, mean, half in shares(PLANTED[name]):
                low, high = 100 * (mean - half), 100 * (mean + half)
                print(f"| {row} | {100 * mean:.1f} | {low:.1f} to {high:.1f} |", flush=True)


if __name__ == "__main__":
    main()
