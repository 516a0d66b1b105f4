"""Images a second of a training whose images are held on the device, and of one that reads them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.masking.levels import Masking
from evaluation.masking.resident import Residence
from evaluation.masking.views import InputView, View
from evaluation.networks.build import build_network
from evaluation.profiling.timing import AddedTime, added_time
from evaluation.storage.array_files import ArrayFile
from evaluation.storage.checked_arrays import open_checked
from evaluation.training.recipe import Recipe, default_precision
from evaluation.training.retraining import train

__all__ = ["NO_NETWORK", "Reading", "measure_reading"]

# The images alone: a network that takes next to no time.
NO_NETWORK = "none"
_NETWORKS = (NO_NETWORK, "resnet9", "fastnet")
_CLASSES, _SIZE = 10, 32
_ROUNDS = 9
# So low that no loss overflows on images of noise; time does not depend on it.
_LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Reading:
    """Images a second in training from a file and from the device's memory.

    Args:
        network: the network, or `NO_NETWORK`.
        training_images: images of an epoch, each round a training of one.
        device: the device.
        precision: of the training.
        threads: of PyTorch's operations.
        read: images a second where batches are read, ahead of their use.
        held: images a second where images are on the device.
        clock_percent: time that holding adds to reading, by the clock; below 0 it saves time.
        clock_low: lower end of its 95 % interval.
        clock_high: upper end.
        processor_percent: the same in processor time.
        processor_low: lower end of its 95 % interval.
        processor_high: upper end.
    """

    network: str
    training_images: int
    device: str
    precision: str
    threads: int
    read: float
    held: float
    clock_percent: float
    clock_low: float
    clock_high: float
    processor_percent: float
    processor_low: float
    processor_high: float


class _NoNetwork(nn.Module):
    """Logits from the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def measure_reading(images: int, device: str) -> Iterator[Reading]:
    """Measure trainings on masked images of 32x32, held and read in turns, network by network.

    Args:
        images: images of an epoch.
        device: of the training.

    Yields:
        The images a second of one network.

    Raises:
        ValueError: no image.
    """
    if images < 1:
        raise ValueError(f"training images {images}: expected at least 1")
    with tempfile.TemporaryDirectory() as folder:
        view = _view(images, Path(folder))
        for network in _NETWORKS:
            yield _measured(network, view, device)


def _measured(name: str, read: View, device: str) -> Reading:
    (held,) = Residence(device).views(read)
    labels = np.arange(len(read)) % _CLASSES
    network: nn.Module = (
        _NoNetwork()
        if name == NO_NETWORK
        else build_network(name, _CLASSES, 0, size=(_SIZE, _SIZE))
    )
    precision = default_precision(device)
    recipe = Recipe(epochs=1, precision=precision, learning_rate=_LEARNING_RATE)
    training = partial(train, network, labels=labels, recipe=recipe, seed=0, device=device)
    took = added_time(partial(training, read), partial(training, held), _ROUNDS)
    return _reading(name, len(read), device, precision, took)


def _reading(name: str, images: int, device: str, precision: str, took: AddedTime) -> Reading:
    read = 1000 * images / took.first_ms
    return Reading(
        name,
        images,
        device,
        precision,
        torch.get_num_threads(),
        read,
        read / (1 + took.clock.median / 100),
        took.clock.median,
        took.clock.low,
        took.clock.high,
        took.processor.median,
        took.processor.low,
        took.processor.high,
    )


def _view(images: int, folder: Path) -> InputView:
    """Images and levels in files, as a run has them."""
    rng = np.random.default_rng(0)
    shape = (images, _SIZE, _SIZE)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    levels = rng.integers(0, 2, shape, dtype=np.uint8)
    mapped = []
    for name, array in (("images", pixels), ("levels", levels)):
        path = folder / f"{name}.npy"
        with ArrayFile(path, array.shape, "|u1", name) as file:
            file.append(array)
        mapped.append(open_checked(path, name))
    masking = Masking("roar", 0.5, (0.5,))
    return InputView(mapped[0], (0.5,) * 3, (0.25,) * 3, mapped[1], masking)
