"""Test images with a method's maps of them, and the steps in which pixels are removed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from comparisons.methods import Batch, Prepare
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import by_saliency, tie_orders
from evaluation.metrics.passes import Forward
from evaluation.metrics.perturbation import (
    PerturbationCurves,
    PerturbFunction,
    perturbation_curves,
)

__all__ = ["USUAL_STEPS", "Sample", "area_shares", "check_steps", "road_shares"]

# Steps of 5 % for the areas, of 10 % for ROAD: its own.
USUAL_STEPS = 20
_TIE_SEED = 0


def check_steps(steps: int) -> None:
    """Refuse a number of steps that ROAD, which takes half as many, cannot halve.

    Raises:
        ValueError: an odd number, or less than 4; says what was expected.
    """
    if steps < 4 or steps % 2:
        raise ValueError(
            f"--measure-steps {steps}: expected an even number of at least 4, such as 20 for steps "
            "of 5 %; ROAD takes half as many"
        )


def area_shares(steps: int) -> tuple[float, ...]:
    """Return the shares of removed pixels of insertion and deletion: from none to all.

    >>> area_shares(4)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    return tuple(round(step / steps, 10) for step in range(steps + 1))


def road_shares(steps: int) -> tuple[float, ...]:
    """Return the shares of removed pixels of ROAD: half as many, short of removing everything.

    >>> road_shares(8)
    (0.0, 0.25, 0.5, 0.75)
    """
    return tuple(round(2 * step / steps, 10) for step in range(steps // 2))


@dataclass(frozen=True)
class Sample:
    """Test images, and a method's maps of them on a frozen network.

    Args:
        prepare: the method.
        network: the trained network that is explained; no measure changes it.
        untrained: returns the same network with initial weights.
        permuted: the same network trained on permuted labels; None if no measure needs it.
        batch: the images as methods get them, the classes explained among it.
        labels: ``(N,)``, the true classes, as outputs of the network; None if it has none of them.
        pixels: ``(N, H, W, 3)`` uint8, the images; volumes and signals with their own axes.
        mean: the training set's channel mean, in [0, 1].
        std: the training set's channel standard deviation, in [0, 1].
        steps: from whole images to empty ones, in measures that remove pixels step by step.
        forward: the network's plain forward pass, if another engine than PyTorch runs it.
        fine_tuned: the network, fine-tuned on images with random holes; None if the measure
            needs none.
    """

    prepare: Prepare
    network: nn.Module
    untrained: Callable[[], nn.Module]
    permuted: nn.Module | None
    batch: Batch
    labels: NDArray[np.int64] | None
    pixels: NDArray[np.uint8]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int = USUAL_STEPS
    forward: Forward | None = None
    fine_tuned: nn.Module | None = None

    @cached_property
    def saliency(self) -> NDArray[np.floating]:
        """The method's maps on the trained network: ``(N, H, W)``."""
        return self.explained(self.network)

    @cached_property
    def ranked(self) -> NDArray[np.int64]:
        """The pixels of each map, the most salient first: ``(N, H * W)``."""
        flat = self.saliency.reshape(len(self.saliency), -1)
        return by_saliency(flat, tie_orders(flat.shape[1], self.batch.index.numpy(), _TIE_SEED))

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the maps; of volumes three sides, of signals one."""
        return self.saliency.shape[1:]

    @property
    def plain(self) -> Forward:
        """The explained network's plain forward pass, in the engine that runs it."""
        return self.network if self.forward is None else self.forward

    def explained(self, network: nn.Module) -> NDArray[np.floating]:
        """Return the method's maps of the same images and classes on another network."""
        saliency: NDArray[np.floating] = (
            self.prepare(network)(self.batch).detach().float().cpu().numpy()
        )
        if not np.isfinite(saliency).all():
            raise ValueError("a map holds NaN or infinity: no measure can be taken of it")
        return saliency

    def explained_changed(self, network: nn.Module) -> NDArray[np.floating]:
        """Return maps of a randomised network, without the warnings of maps that are all 0."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* is 0 everywhere for image")
            return self.explained(network)

    def answers(
        self, shown: PerturbFunction, shares: tuple[float, ...]
    ) -> tuple[PerturbationCurves, PerturbationCurves]:
        """Return the outputs while the most, and the least, salient pixels are removed."""
        of_sample = self.plain, shown, self.batch.target, self.ranked, self.size, shares
        most = perturbation_curves(*of_sample, first="most")
        return most, perturbation_curves(*of_sample, first="least", ends=most)

    def with_noisy_linear(self) -> PerturbFunction:
        """Return a function that fills removed pixels by noisy linear imputation."""
        mean, std = (255.0 * torch.tensor(values) for values in (self.mean, self.std))
        indices = self.batch.index.numpy()

        def shown(kept: NDArray[np.bool_]) -> torch.Tensor:
            filled = torch.from_numpy(noisy_linear(self.pixels, kept, indices))
            return ((filled - mean) / std).movedim(-1, 1).to(self.batch.inputs.device)

        return shown
