"""A ResNet-50 in training on a GPU: images a second, and how long it waits for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.masking.levels import Masking
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.training.retraining import Recipe, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
IMAGES, SIZE = 8192, 224
CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> InputView:
    """Random images and levels in memory maps, as a run has them; the page cache holds them."""
    folder = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8))
    np.save(folder / "levels.npy", rng.integers(0, 6, (IMAGES, SIZE, SIZE), dtype=np.uint8))
    names = ("images", "levels")
    images, levels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
    return InputView(images, (0.5,) * 3, (0.25,) * 3, levels, Masking("roar", 0.5, CUTS))


@pytest.mark.parametrize("prefetch", [0, 1, 2])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.benchmark(group="training on a GPU: ResNet-50, 224x224, batch 256")
def test_training_waits_for_images(benchmark, masked, precision, prefetch):
    recipe = Recipe(
        epochs=1,
        batch_size=256,
        learning_rate=0.01,
        schedule="constant",
        crop_padding=0,
        resized_crop=0.08,
        precision=precision,
    )
    labels = np.random.default_rng(1).integers(0, 1000, IMAGES)
    network = build_network("resnet50", 1000, 0, size=(SIZE, SIZE))

    def epoch():
        return train(network, masked, labels, recipe, 0, device="cuda", prefetch=prefetch)

    training = benchmark.pedantic(epoch, rounds=2, warmup_rounds=1)
    (entry,) = training.history
    benchmark.extra_info["images a second"] = round(IMAGES / entry["seconds"])
    benchmark.extra_info["share waited"] = round(training.wait_share, 4)
