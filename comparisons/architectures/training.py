"""Training of the small networks on the image set ``shapes``, each kept as one file of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from comparisons.architectures.networks import ARCHITECTURES, SIZE, build
from evaluation.datasets.dataset import Dataset
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from evaluation.masking.views import InputView
from evaluation.storage.checkpoint import Checkpoint
from evaluation.training.retraining import correctness, train
from fastsal.files import written_whole

__all__ = ["TEST_IMAGES", "TRAIN_IMAGES", "images", "trained", "unfinished"]

TRAIN_IMAGES, TEST_IMAGES = 8000, 1000
# All networks and seeds see the same images.
_IMAGE_SEED = 0


@cache
def images() -> Dataset:
    """The images that every network is trained and tested on."""
    return load_dataset(
        "shapes",
        Request(
            image_size=SIZE, train_images=TRAIN_IMAGES, test_images=TEST_IMAGES, seed=_IMAGE_SEED
        ),
    )


def trained(
    name: str, seed: int, folder: Path, say: Callable[[str], object]
) -> tuple[nn.Module, float]:
    """Return a trained network in evaluation mode, and its accuracy on the test images.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        seed: Of the initial weights, and of the order of the images.
        folder: Of the weights; a network whose file is there is not trained again.
        say: Called with a line after each epoch.
    """
    data = images()
    network = build(name, len(data.classes), seed)
    path = folder / f"{name}-{seed}.pt"
    if path.exists():
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    else:
        recipe = ARCHITECTURES[name].recipe
        view = InputView(data.train.images, data.mean, data.std)
        checkpoint = unfinished(name, seed, folder, say)
        train(
            network,
            view,
            np.asarray(data.train.labels),
            recipe,
            seed,
            on_epoch=lambda epoch, loss: say(
                f"{name}, seed {seed}: epoch {epoch} of {recipe.epochs}, loss {loss:.2f}"
            ),
            checkpoint=checkpoint,
        )
        with written_whole(path) as partial:
            torch.save(network.state_dict(), partial)
        checkpoint.remove()
    tested = InputView(data.test.images, data.mean, data.std)
    right = correctness(network, tested, np.asarray(data.test.labels))
    return network.eval(), float(right.mean())


def unfinished(
    name: str, seed: int, folder: Path, say: Callable[[str], object], masks: str = ""
) -> Checkpoint:
    """Return the checkpoint of a training.

    Args:
        name: A key of `comparisons.architectures.networks.ARCHITECTURES`.
        seed: Of the training.
        folder: Of the weights.
        say: Called with a line on how far the training is.
        masks: A hash of what is removed from the images; empty for nothing.
    """
    path = folder / "unfinished" / "-".join(filter(None, (name, str(seed), masks)))
    return Checkpoint(path.with_suffix(".pt"), f"{name}, seed {seed}", say)
