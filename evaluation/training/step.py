"""One step of a training: loss, gradients, optimiser and schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.masking.views import View
from evaluation.training.ranks import Ranks
from evaluation.training.recipe import PRECISIONS, Recipe
from evaluation.training.schedules import OPTIMIZERS, SCHEDULES, training_steps

__all__ = ["Step", "first_output"]


@dataclass(frozen=True)
class Step:
    """One step of a training, and what it changes.

    Args:
        network: the network, compiled and wrapped for several ranks if the recipe says so.
        optimizer: optimiser of its weights.
        schedule: schedule of the learning rate.
        scaler: scaler of the loss, which acts in float16 alone.
        recipe: the training's recipe.
    """

    network: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    recipe: Recipe

    @classmethod
    def make(cls, network: nn.Module, recipe: Recipe, ranks: Ranks, n: int, view: View) -> Step:
        """The step of a network on its device.

        Args:
            network: the network.
            recipe: the training's recipe.
            ranks: the processes that train it.
            n: number of training images.
            view: the images; two of them are shown to find out about further heads.
        """
        optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), recipe)
        schedule = SCHEDULES[recipe.schedule](optimizer, recipe, training_steps(recipe, n))
        device = ranks.device.type
        scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "float16")
        if scaler.is_enabled():
            # A step without gradients does nothing. Float16 may skip the first steps, and the
            # schedule would warn that no optimiser step came before it.
            optimizer.step()
        called = ranks.wrapped(network, lambda: view(np.arange(min(2, n)), ranks.device))
        if recipe.compile:
            # Static shapes: a last, smaller batch has kernels of its own and does not slow down
            # the others. A later network of this class in this process compiles nothing.
            called = torch.compile(called, dynamic=False)  # type: ignore[assignment]
        return cls(called, optimizer, schedule, scaler, recipe)

    def __call__(self, inputs: Tensor, target: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Take one step, and return the mean loss and the logits before it."""
        autocast = PRECISIONS[self.recipe.precision]
        with torch.autocast(inputs.device.type, autocast, enabled=autocast is not None):
            logits = first_output(self.network(inputs))
        # A network of float64 keeps its precision.
        loss = F.cross_entropy(
            logits if logits.dtype == torch.float64 else logits.float(),
            target,
            label_smoothing=self.recipe.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss if weight == 1.0 else loss * weight).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return loss.detach(), logits.detach()


def first_output(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits of a network, without the auxiliary heads of GoogLeNet and Inception.

    Args:
        output: ``(N, classes)``, or a tuple whose first entry is that, as in training mode.
    """
    return output if isinstance(output, Tensor) else output[0]
