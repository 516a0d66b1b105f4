"""Retraining of a network on masked images, with all randomness from the seed.

Two trainings with the same seed start from the same weights and see the same images in the same
order with the same crops and flips, whatever method made the masks: `Training` holds a hash of
each as evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluation.masking.resident import ResidentView
from evaluation.masking.views import RawBatch, View, on_device
from evaluation.networks.build import state_hash
from evaluation.networks.grid_networks import channels_last_of
from evaluation.storage.checkpoint import Checkpoint
from evaluation.training.augmentation import EpochDraw
from evaluation.training.checkpointing import TrainingCheckpoint, TrainingState
from evaluation.training.prefetch import Prefetcher
from evaluation.training.ranks import Ranks
from evaluation.training.recipe import Recipe, default_precision
from evaluation.training.step import Step, first_output

__all__ = [
    "PREFETCH",
    "Recipe",
    "Training",
    "check_device",
    "correctness",
    "default_precision",
    "predictions",
    "train",
]

_EVALUATION_BATCH = 250
# Batches that are prefetched while one is trained on.
PREFETCH = 2


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: an unusable device; holds PyTorch's own message.

    >>> check_device("cpu")
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(
            f"device {device!r} cannot be used here ({why}): expected cpu, or cuda where there "
            "is one"
        ) from error


@dataclass(frozen=True)
class Training:
    """Hashes and history of a training.

    Args:
        init_hash: hash of the initial weights.
        order_hash: hash of the order of images, crops and flips.
        model_hash: hash of the final weights.
        history: an entry an epoch: ``epoch, loss, accuracy, seconds, wait_seconds``; the last is
            the time of waiting for images.
        earlier_seconds: of the work that a checkpoint took over.
    """

    init_hash: str
    order_hash: str
    model_hash: str
    history: tuple[Mapping[str, float], ...]
    earlier_seconds: float = 0.0

    @property
    def wait_share(self) -> float:
        """The share of the training's time that was spent waiting for images.

        >>> Training("", "", "", ({"seconds": 4.0, "wait_seconds": 1.0},)).wait_share
        0.25
        """
        waited = sum(entry["wait_seconds"] for entry in self.history)
        return waited / sum(entry["seconds"] for entry in self.history)


def train(
    network: nn.Module,
    view: View,
    labels: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    *,
    device: str = "cpu",
    on_epoch: Callable[[int, float], object] | None = None,
    prefetch: int = PREFETCH,
    checkpoint: Checkpoint | None = None,
) -> Training:
    """Train a network in place, from its present weights.

    With ``recipe.ranks > 1`` every process of `torch.distributed`'s default group calls this with
    the same arguments but the device. Each takes its share of every batch; gradients are those of
    the whole batch's mean. BatchNorm normalises over a rank's own images, and the first rank's
    statistics are kept.

    Args:
        network: returns ``(N, classes)``, or a tuple whose first entry is that.
        view: training images; a `ResidentView` is on `device` already, and nothing is read.
        labels: ``(N,)``.
        recipe: the training's recipe.
        seed: seed of the order, the crops, the flips and dropout, which depend on it, the epoch
            and the image's index alone.
        device: the device to train on.
        on_epoch: called with the epoch and the mean loss after each epoch, on the first rank.
        prefetch: number of batches that are read while one is trained on, each by a thread; 0 to
            read each when it is needed. It changes no result.
        checkpoint: of this training alone, on a disk that all ranks read: an interrupted training
            goes on between two steps, and ends with the weights of one that was not interrupted.
            None to start from the first step.

    Raises:
        FloatingPointError: a loss of NaN or infinity; names the epoch.
        RuntimeError: a missing group, one of another size, or ranks that start from different
            weights.
    """
    ranks = Ranks.of(recipe.ranks, device)
    init_hash = state_hash(network)
    ranks.check_equal_start(init_hash)
    order_digest = hashlib.sha256()
    memory_format = _memory_format(view, recipe, device)
    network.to(device=device, memory_format=memory_format).train()  # type: ignore[call-overload]
    n = len(labels)
    targets = torch.from_numpy(np.array(labels)).to(device)  # a copy: labels may be mapped
    with torch.random.fork_rng(devices=_cuda(device)), Prefetcher[RawBatch](prefetch) as prefetcher:
        torch.manual_seed(ranks.seed(seed))
        step = Step.make(network, recipe, ranks, n, view)
        state = TrainingState.none(device)
        kept = None
        if checkpoint is not None:
            of = f"{init_hash}, {recipe}, seed {seed}, {n} images, {ranks.device.type}"
            kept = TrainingCheckpoint(checkpoint, of, network, step, ranks)
            state = kept.loaded() or state
        for epoch in range(1, recipe.epochs + 1):
            draw = EpochDraw.make(n, recipe, seed, epoch)
            draw.add_to(order_digest)
            if epoch < state.epoch:
                continue
            state.start_clock(prefetcher.waited)
            placed = draw.on(device, recipe)
            shares = [
                ranks.share(draw.order[start : start + recipe.batch_size])
                for start in range(0, n, recipe.batch_size)
            ]
            # One transfer an epoch: a step then waits for nothing that the host has.
            every = np.concatenate([share.indices for share in shares])
            sizes = [len(share.indices) for share in shares]
            indices = torch.split(torch.from_numpy(every).to(device), sizes)
            left, steps = slice(state.steps, None), len(shares)
            shares, indices = shares[left], indices[left]
            batches: Iterable[RawBatch] = ((index,) for index in indices)
            if not isinstance(view, ResidentView):
                read = (partial(_read, view, share.indices, device) for share in shares)
                batches = prefetcher.over(read)
            for share, index, raw in zip(shares, indices, batches, strict=True):
                inputs = placed.augment(view.to_inputs(on_device(raw, device)), index)
                target = targets[index]
                loss, logits = step(inputs.to(memory_format=memory_format), target, share.weight)
                # Summed on the device: reading a number would wait for the device.
                if share.weight:
                    state.loss_sum += loss.double() * len(target)
                    state.right += (logits.argmax(1) == target).sum()
                state.steps += 1
                if kept is not None:
                    state.read_clock(prefetcher.waited)
                    kept.save_if_due(state, steps)
            loss_total, right_total = ranks.total(state.loss_sum, state.right)
            mean_loss = loss_total / n
            if not np.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the loss is {mean_loss} after epoch {epoch} at learning rate "
                    f"{recipe.learning_rate:g}: lower it with --learning-rate"
                )
            state.read_clock(prefetcher.waited)
            state.end_epoch(mean_loss, right_total / n)
            if on_epoch is not None and ranks.rank == 0:
                on_epoch(epoch, mean_loss)
    earlier = 0.0 if checkpoint is None else checkpoint.earlier_seconds
    order_hash, model_hash = order_digest.hexdigest()[:16], ranks.finish(network)
    return Training(init_hash, order_hash, model_hash, tuple(state.history), earlier)


def _memory_format(view: View, recipe: Recipe, device: str) -> torch.memory_format:
    """The memory format of a network's inputs."""
    if not recipe.channels_last:
        return torch.contiguous_format
    return channels_last_of(view(np.arange(1), device).dim() - 2)


def _read(view: View, indices: NDArray[np.int64], device: str) -> RawBatch:
    """Read a raw batch, in pinned memory if it goes to a CUDA device."""
    raw = view.read(indices)
    on_cuda = torch.device(device).type == "cuda"
    return tuple(tensor.pin_memory() for tensor in raw) if on_cuda else raw


def _cuda(device: str) -> list[torch.device]:
    """The CUDA device whose random state a training uses, if any."""
    return [torch.device(device)] if torch.device(device).type == "cuda" else []


def predictions(network: nn.Module, view: View, *, device: str = "cpu") -> NDArray[np.int64]:
    """The predicted class of every image of a view, in eval mode and float32: ``(N,)``."""
    network.to(device).eval()
    classes = np.empty(len(view), dtype=np.int64)
    with torch.inference_mode():
        for start in range(0, len(classes), _EVALUATION_BATCH):
            indices = np.arange(start, min(start + _EVALUATION_BATCH, len(classes)))
            logits = first_output(network(view(indices, device)))
            classes[indices] = logits.argmax(1).cpu().numpy()
    return classes


def correctness(
    network: nn.Module, view: View, labels: NDArray[np.int64], *, device: str = "cpu"
) -> NDArray[np.bool_]:
    """True for the images of a view that a network classifies correctly: ``(N,)``."""
    right: NDArray[np.bool_] = predictions(network, view, device=device) == labels
    return right
