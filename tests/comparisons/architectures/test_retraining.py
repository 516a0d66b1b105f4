"""ROAR of tensors of tokens: what is removed, and what a stop keeps; the picture of streams."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from comparisons.architectures.networks import ARCHITECTURES, build
from comparisons.architectures.tokens import picture, retraining
from comparisons.architectures.tokens.retraining import (
    RETRAINED,
    UNMASKED,
    read_retrained,
    retrain,
)
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from fastsal import SMOEScale, find_scales

pytestmark = pytest.mark.filterwarnings("ignore:layer.* give negative activations")
SIZE = 32


@pytest.fixture(scope="module")
def data():
    return load_dataset("shapes", Request(image_size=SIZE, train_images=40, test_images=24, seed=0))


class Stub(nn.Module):
    """Predicts the first class."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return (self.weight + torch.eye(8)[0]).expand(len(x), -1)


def of_colours(batch):
    """The first channel plus the class and the image's number, which change no rank."""
    moved = batch.target.reshape(-1, 1, 1) + batch.index.reshape(-1, 1, 1)
    return (batch.inputs[:, 0].double() + moved).numpy()


@pytest.fixture
def trainings(monkeypatch, data):
    """The views that networks are trained on, one a training."""
    views = []
    monkeypatch.setattr(retraining, "images", lambda: data)
    monkeypatch.setattr(retraining, "trained", lambda *_: (Stub(), 0.1))
    monkeypatch.setattr(
        retraining, "explainers", lambda *_: dict.fromkeys(("random", "centre"), of_colours)
    )
    monkeypatch.setattr(retraining, "train", lambda _, view, *__, **___: views.append(view))
    return views


def test_the_most_salient_pixels_are_removed(trainings, data, tmp_path):
    retrain("vit", 0, (0.5, 0.1), tmp_path, print)
    # The larger share first, as it was given; both methods of each.
    assert len(trainings) == 4
    for view, share in zip(trainings, (0.5, 0.5, 0.1, 0.1), strict=True):
        for index in (0, 7, 39):
            found = view(np.array([index]))[0].numpy()
            pixels = data.train.images[index] / 255
            whole = ((pixels - data.mean) / data.std).transpose(2, 0, 1)
            flat = whole[0].ravel()
            removed = (found == 0).all(0).ravel()
            assert removed.sum() == round(share * SIZE * SIZE)
            # What stays is no more salient than what is removed, and is as it was.
            assert flat[removed].min() >= flat[~removed].max()
            np.testing.assert_allclose(
                found.reshape(3, -1)[:, ~removed], whole.reshape(3, -1)[:, ~removed], atol=1e-5
            )


def test_a_stopped_run_goes_on(trainings, data, tmp_path, monkeypatch):
    build = retraining.build

    def stopped(*arguments):
        if len(trainings) == 2:
            raise KeyboardInterrupt
        return build(*arguments)

    monkeypatch.setattr(retraining, "build", stopped)
    with pytest.raises(KeyboardInterrupt):
        retrain("vit", 3, (0.5, 0.1), tmp_path, print)
    monkeypatch.setattr(retraining, "build", build)
    kept = read_retrained(tmp_path / "roar.jsonl")
    assert [(one.method, one.fraction) for one in kept] == [
        (UNMASKED, 0.0),
        ("random", 0.5),
        ("centre", 0.5),
    ]
    retrain("vit", 3, (0.5, 0.1), tmp_path, print)
    retrain("vit", 3, (0.5, 0.1), tmp_path, print)
    assert len(trainings) == 4
    found = read_retrained(tmp_path / "roar.jsonl")
    assert found[:3] == kept
    assert len(found) == 5
    assert {one.seed for one in found} == {3}
    # The stub's answers, image by image.
    whole = found[0].correct
    assert np.array_equal(whole, np.asarray(data.test.labels) == 0)
    assert whole.sum() == 3


def test_every_tensor_of_a_vision_transformer_is_retrained(tmp_path, monkeypatch, data):
    recipe = replace(ARCHITECTURES["vit"].recipe, epochs=1, batch_size=20)
    architecture = replace(ARCHITECTURES["vit"], recipe=recipe)
    monkeypatch.setitem(ARCHITECTURES, "vit", architecture)
    monkeypatch.setattr(retraining, "images", lambda: data)
    monkeypatch.setattr("comparisons.architectures.training.images", lambda: data)
    retrain("vit", 0, (0.5,), tmp_path, print)
    found = read_retrained(tmp_path / "roar.jsonl")
    assert [one.method for one in found] == [UNMASKED, *RETRAINED]
    assert all(len(one.right) == 24 for one in found)


def test_the_picture_has_each_map_below_its_image(tmp_path, monkeypatch, data):
    network = build("pvt", len(data.classes), 0).eval()
    monkeypatch.setattr(picture, "images", lambda: data)
    monkeypatch.setattr(picture, "trained", lambda *_: (network, 0.1))
    picture.write_picture(["pvt"], tmp_path, tmp_path / "streams.png", count=3)
    drawn = np.asarray(Image.open(tmp_path / "streams.png")).astype(int)
    assert drawn.shape == (3 * 3 * SIZE, 3 * 3 * SIZE, 3)
    small = drawn[1::3, 1::3].reshape(3, SIZE, 3, SIZE, 3).transpose(0, 2, 1, 3, 4)
    assert np.array_equal(small[0], data.test.images[:3])
    pixels = torch.from_numpy(np.asarray(data.test.images[:3])).movedim(-1, 1) / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (data.mean, data.std))
    inputs = ((pixels - mean) / std).float()
    scales = find_scales(network, inputs)
    as_they_are = [replace(scale, linear=False) for scale in scales]
    for row, layers in enumerate((as_they_are, scales), 1):
        maps = SMOEScale(network, layers).maps(inputs)
        brightness = small[row].sum(-1)
        for found, expected in zip(brightness, maps.combined, strict=True):
            # The colours of magma grow lighter with the map.
            order = spearmanr(found.ravel(), expected.numpy().ravel()).statistic
            assert order > 0.999
