"""State of a training between two steps, and its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.storage.checkpoint import Checkpoint
from evaluation.training.ranks import Ranks
from evaluation.training.step import Step

__all__ = ["TrainingCheckpoint", "TrainingState"]

# Ranks agree on a write so often: each time, all wait for the first.
_STEPS_BETWEEN_LOOKS = 20


@dataclass
class TrainingState:
    """The place of a training between two steps, and what it has summed so far.

    With the network, its step and the random states it is all that the next step depends on.

    Args:
        loss_sum: ``()``, sum of the losses of this rank's images in this epoch.
        right: ``()``, number of them that were classified correctly.
        epoch: from 1.
        steps: taken in this epoch.
        seconds: of this epoch, as the clock was last read.
        wait_seconds: of them, those of waiting for images.
        history: an entry for each epoch before, as `Training` has them.
    """

    loss_sum: Tensor
    right: Tensor
    epoch: int = 1
    steps: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    history: list[Mapping[str, float]] = field(default_factory=list)

    @classmethod
    def none(cls, device: str) -> TrainingState:
        """The state before the first step."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        return cls(loss_sum, torch.zeros((), dtype=torch.int64, device=device))

    def start_clock(self, waited: float) -> None:
        """Start to measure the rest of this epoch; `waited` is the prefetcher's time of waiting."""
        self._since = time.perf_counter() - self.seconds
        self._waited = waited - self.wait_seconds

    def read_clock(self, waited: float) -> None:
        """Update the seconds of this epoch."""
        self.seconds = time.perf_counter() - self._since
        self.wait_seconds = waited - self._waited

    def end_epoch(self, loss: float, accuracy: float) -> None:
        """Add this epoch to the history, and go to the next."""
        self.history.append(
            {
                "epoch": self.epoch,
                "loss": loss,
                "accuracy": accuracy,
                "seconds": self.seconds,
                "wait_seconds": self.wait_seconds,
            }
        )
        self.loss_sum, self.right = torch.zeros_like(self.loss_sum), torch.zeros_like(self.right)
        self.epoch, self.steps, self.seconds, self.wait_seconds = self.epoch + 1, 0, 0.0, 0.0


@dataclass(frozen=True)
class TrainingCheckpoint:
    """The checkpoint of a training of one or several ranks; the first writes it, all read it.

    Args:
        file: the file.
        of: what determines the training beside its images.
        network: the network, on its device.
        step: its step, with the state of the optimiser, the schedule and the scaler.
        ranks: the processes that train it.
    """

    file: Checkpoint
    of: str
    network: nn.Module
    step: Step
    ranks: Ranks

    def loaded(self) -> TrainingState | None:
        """Take over the state in the file; None without one that all ranks read.

        Raises:
            evaluation.storage.sealed.Unfit: the file is not what was written.
        """
        kept = self.file.load(self.of)
        place = 0 if kept is None else kept["epoch"] * 2**32 + kept["steps"]
        # A rank on another machine may still see an older file.
        if not self.ranks.agree(place) or kept is None:
            self.file.forget()
            return None
        self.network.load_state_dict(kept["network"])
        self.step.optimizer.load_state_dict(kept["optimizer"])
        self.step.schedule.load_state_dict(kept["schedule"])
        self.step.scaler.load_state_dict(kept["scaler"])
        own, device = self.ranks.rank, self.ranks.device
        torch.set_rng_state(kept["random"][own])
        if device.type == "cuda":
            torch.cuda.set_rng_state(kept["random_cuda"][own], device)
        return TrainingState(
            kept["loss_sum"][own].to(device),
            kept["right"][own].to(device),
            *(kept[name] for name in _PLAIN),
        )

    def save_if_due(self, state: TrainingState, steps: int) -> None:
        """Write the state, if the last write is long enough ago.

        Args:
            state: of this rank.
            steps: of an epoch.
        """
        taken = (state.epoch - 1) * steps + state.steps
        if self.ranks.count > 1 and taken % _STEPS_BETWEEN_LOOKS:
            return
        if not self.ranks.of_first(self.file.due):
            return
        device = self.ranks.device
        kept: dict[str, Any] = {name: getattr(state, name) for name in _PLAIN}
        for name in ("loss_sum", "right"):
            kept[name] = self.ranks.gathered(getattr(state, name))
        kept["random"] = self.ranks.gathered(torch.get_rng_state())
        if device.type == "cuda":
            kept["random_cuda"] = self.ranks.gathered(torch.cuda.get_rng_state(device))
        if self.ranks.rank:
            return
        kept["network"] = self.network.state_dict()
        kept["optimizer"] = self.step.optimizer.state_dict()
        # Functions stay behind: a schedule that is made again has them.
        schedule = self.step.schedule.state_dict()
        kept["schedule"] = {name: held for name, held in schedule.items() if not callable(held)}
        kept["scaler"] = self.step.scaler.state_dict()
        self.file.save(self.of, kept, taken / (self.step.recipe.epochs * steps))


# What of a `TrainingState` is the same for all ranks, in the order of its fields.
_PLAIN = ("epoch", "steps", "seconds", "wait_seconds", "history")
