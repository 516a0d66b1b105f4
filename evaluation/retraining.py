"""Train one network on masked images; everything random depends on the seed alone.

Two trainings with the same seed start from the same bytes and see the same images in
the same order with the same crops and flips, whatever the method that made the masks:
`Training` returns a hash of each so that a reader can check it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.networks import state_hash
from evaluation.views import View

__all__ = [
    "Recipe",
    "Training",
    "check_device",
    "correctness",
    "crop_and_flip",
    "default_precision",
    "predictions",
    "train",
]

_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum and a one-cycle learning rate.

    Args:
        epochs: passes over the training images.
        batch_size: images a step; the last, smaller batch of an epoch is used too.
        learning_rate: peak of the one-cycle schedule.
        momentum: Nesterov momentum.
        weight_decay: of all weights.
        label_smoothing: of the cross-entropy.
        warmup: share of the steps in which the learning rate rises.
        precision: ``"float32"``, or ``"bfloat16"`` for autocast.
        channels_last: memory format of activations.
        crop_padding: pixels added at each side before the random crop; 0 for none.
        flip: random horizontal flip.

    >>> Recipe(epochs=2).precision
    'float32'
    """

    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warmup: float = 0.25
    precision: str = "float32"
    channels_last: bool = True
    crop_padding: int = 2
    flip: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs={self.epochs}, batch_size={self.batch_size}: expected at least 1 of each"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate:g}: expected more than 0")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision {self.precision!r}: expected 'float32' or 'bfloat16'")


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: names the device, and says what PyTorch said of it.

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


def default_precision(device: str) -> str:
    """``"bfloat16"`` where the device multiplies it fast, else ``"float32"``."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


@dataclass(frozen=True)
class Training:
    """What a training leaves behind.

    Args:
        init_hash: hash of the initial weights.
        order_hash: hash of the order of images, crops and flips.
        model_hash: hash of the final weights.
        history: an entry an epoch: ``epoch, loss, accuracy, seconds``.
    """

    init_hash: str
    order_hash: str
    model_hash: str
    history: tuple[Mapping[str, float], ...]


def train(
    network: nn.Module,
    view: View,
    labels: NDArray[np.int64],
    recipe: Recipe,
    seed: int,
    *,
    device: str = "cpu",
    on_epoch: Callable[[int, float], object] | None = None,
) -> Training:
    """Train `network` in place, from the weights it has.

    Args:
        network: returns ``(N, classes)``, or a tuple whose first entry is that.
        view: training images.
        labels: ``(N,)``.
        recipe: how to train.
        seed: seeds the order, the crops, the flips and dropout; with the epoch and the
            image's index it is all that they depend on.
        device: where to train.
        on_epoch: called with the epoch and the mean loss after each epoch.

    Raises:
        FloatingPointError: the loss became NaN or infinite; names the epoch.
    """
    init_hash = state_hash(network)
    order_digest = hashlib.sha256()
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=memory_format).train()  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    n = len(labels)
    steps = max(-(-n // recipe.batch_size) * recipe.epochs, 2)
    # A rise of exactly one step is one that OneCycleLR divides by zero for.
    one_step = recipe.warmup * steps == 1.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=steps,
        pct_start=recipe.warmup * (1 - 1e-9) if one_step else recipe.warmup,
        cycle_momentum=False,
    )
    targets = torch.from_numpy(np.array(labels)).to(device)  # a copy: labels may be mapped
    history: list[Mapping[str, float]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(1, recipe.epochs + 1):
            started = time.perf_counter()
            draw = _EpochDraw.make(n, recipe, seed, epoch)
            draw.add_to(order_digest)
            loss_sum, right = 0.0, 0
            for start in range(0, n, recipe.batch_size):
                indices = draw.order[start : start + recipe.batch_size]
                inputs = view(indices)
                if recipe.crop_padding or recipe.flip:
                    inputs = crop_and_flip(
                        inputs,
                        draw.top[indices],
                        draw.left[indices],
                        draw.flip[indices],
                        recipe.crop_padding,
                    )
                inputs = inputs.to(device=device, memory_format=memory_format)
                target = targets[torch.from_numpy(indices).to(device)]
                with torch.autocast(
                    torch.device(device).type,
                    torch.bfloat16,
                    enabled=recipe.precision == "bfloat16",
                ):
                    logits = _logits(network(inputs))
                loss = F.cross_entropy(
                    logits.float(), target, label_smoothing=recipe.label_smoothing
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                loss_sum += loss.item() * len(indices)
                right += int((logits.argmax(1) == target).sum())
            mean_loss = loss_sum / n
            if not np.isfinite(mean_loss):
                raise FloatingPointError(
                    f"the loss is {mean_loss} after epoch {epoch} at learning rate "
                    f"{recipe.learning_rate:g}: lower it with --learning-rate"
                )
            history.append(
                {
                    "epoch": epoch,
                    "loss": mean_loss,
                    "accuracy": right / n,
                    "seconds": time.perf_counter() - started,
                }
            )
            if on_epoch is not None:
                on_epoch(epoch, mean_loss)
    return Training(init_hash, order_digest.hexdigest()[:16], state_hash(network), tuple(history))


def predictions(network: nn.Module, view: View, *, device: str = "cpu") -> NDArray[np.int64]:
    """The predicted class of every image of a view, in eval mode and float32: ``(N,)``."""
    network.to(device).eval()
    classes = np.empty(len(view), dtype=np.int64)
    with torch.inference_mode():
        for start in range(0, len(classes), _EVALUATION_BATCH):
            indices = np.arange(start, min(start + _EVALUATION_BATCH, len(classes)))
            classes[indices] = _logits(network(view(indices).to(device))).argmax(1).cpu().numpy()
    return classes


def correctness(
    network: nn.Module, view: View, labels: NDArray[np.int64], *, device: str = "cpu"
) -> NDArray[np.bool_]:
    """Which images of a view a network classifies rightly: ``(N,)``."""
    right: NDArray[np.bool_] = predictions(network, view, device=device) == labels
    return right


def crop_and_flip(
    images: Tensor,
    top: NDArray[np.integer],
    left: NDArray[np.integer],
    flip: NDArray[np.bool_],
    padding: int,
) -> Tensor:
    """Shift each image by its own offset and mirror some: no pixel is resampled.

    Zeros, the channel mean after normalisation, come in at the sides.

    Args:
        images: ``(B, C, H, W)``.
        top: ``(B,)`` first row of the crop, ``0 .. 2 * padding``.
        left: ``(B,)`` first column of the crop, ``0 .. 2 * padding``.
        flip: ``(B,)`` whether to mirror.
        padding: pixels added at each side.

    Returns:
        ``(B, C, H, W)``.

    >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> crop_and_flip(image, np.array([1]), np.array([1]), np.array([True]), 1).tolist()
    [[[[2.0, 1.0], [4.0, 3.0]]]]
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    rows = torch.from_numpy(top)[:, None] + torch.arange(height)
    columns = torch.from_numpy(left)[:, None] + torch.arange(width)
    columns = torch.where(torch.from_numpy(flip)[:, None], columns.flip(1), columns)
    cropped = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class _EpochDraw:
    """What chance decides in one epoch; entry i of the last three belongs to image i."""

    order: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip: NDArray[np.bool_]

    @classmethod
    def make(cls, n: int, recipe: Recipe, seed: int, epoch: int) -> _EpochDraw:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
        offsets = 2 * recipe.crop_padding + 1
        return cls(
            rng.permutation(n),
            rng.integers(0, offsets, n),
            rng.integers(0, offsets, n),
            rng.random(n) < 0.5 if recipe.flip else np.zeros(n, dtype=bool),
        )

    def add_to(self, digest: hashlib._Hash) -> None:
        for array in (self.order, self.top, self.left, self.flip):
            digest.update(array.tobytes())


def _logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    # In training mode GoogLeNet and Inception return their auxiliary heads too.
    return output if isinstance(output, Tensor) else output[0]
