"""Optimisers and learning rate schedules by name."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from evaluation.training.recipe import OptimizerName, Recipe, ScheduleName

__all__ = ["OPTIMIZERS", "SCHEDULES", "training_steps"]

# From weights and a recipe to an optimiser.
OPTIMIZERS: dict[OptimizerName, Callable[[Iterable[nn.Parameter], Recipe], Optimizer]] = {
    "sgd": lambda weights, recipe: torch.optim.SGD(
        weights,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    ),
    "adamw": lambda weights, recipe: torch.optim.AdamW(
        weights,
        lr=recipe.learning_rate,
        betas=(recipe.momentum, 0.999),
        weight_decay=recipe.weight_decay,
    ),
}


def training_steps(recipe: Recipe, images: int) -> int:
    """Number of steps of a training, those of smaller last batches included.

    >>> training_steps(Recipe(epochs=2, batch_size=64), 130)
    6
    """
    return -(-images // recipe.batch_size) * recipe.epochs


def _one_cycle(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    steps = max(steps, 2)
    share = recipe.share(recipe.warmup)
    # OneCycleLR divides by zero if the rise is exactly one step.
    one_step = share * steps == 1.0
    return OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=steps,
        pct_start=share * (1 - 1e-9) if one_step else share,
        cycle_momentum=False,
    )


def _after_warmup(factor: Callable[[Recipe, float, float], float]) -> _Schedule:
    """A schedule with a linear warm-up, then `factor`.

    Args:
        factor: the rate over its peak, from the recipe, the share of all steps done, and the share
            of the steps after the warm-up done.
    """

    def schedule(optimizer: Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
        rising = round(recipe.share(recipe.warmup) * steps)

        def rate(step: int) -> float:
            if step < rising:
                return (step + 1) / rising
            after = (step - rising) / max(steps - rising, 1)
            return factor(recipe, step / steps, after)

        return LambdaLR(optimizer, rate)

    return schedule


def _stepped(recipe: Recipe, done: float, _: float) -> float:
    # Up to rounding: 30 of 90 epochs are a third.
    places = [recipe.share(milestone) for milestone in recipe.milestones]
    passed: float = 0.1 ** bisect_right(places, done + 1e-9)
    return passed


_Schedule = Callable[[Optimizer, Recipe, int], LRScheduler]

# From an optimiser, a recipe and the number of steps to a schedule that is called each step.
SCHEDULES: dict[ScheduleName, _Schedule] = {
    "one-cycle": _one_cycle,
    "step": _after_warmup(_stepped),
    "cosine": _after_warmup(lambda _, __, after: 0.5 * (1.0 + math.cos(math.pi * after))),
    "constant": _after_warmup(lambda _, __, ___: 1.0),
}
