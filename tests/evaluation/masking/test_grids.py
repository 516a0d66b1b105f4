"""Levels, masks, files and measures of volumes and signals, and ROAR and KAR on them."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.datasets.made.signals import make_signals
from evaluation.datasets.made.volumes import make_volumes
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.level_files import Levels, unpack_levels
from evaluation.masking.levels import (
    Masking,
    as_elements,
    by_saliency,
    continued_levels,
    pixels_at,
    saliency_levels,
    tie_orders,
)
from evaluation.masking.views import InputView
from evaluation.metrics.complexity import png_bytes, total_variation
from evaluation.metrics.localisation import mass_in_object, peaks, pointing_game
from evaluation.metrics.perturbation import perturbation_curves, with_channel_mean
from evaluation.metrics.randomisation import structural_similarities
from evaluation.networks.build import build_network
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import correctness, train
from fastsal import FastCAM, SMOEScale

CUTS = (0.1, 0.25, 0.5)
GRIDS = {1: (37,), 3: (5, 6, 7)}


def maps(axes: int, count: int = 4) -> np.ndarray:
    values = np.random.default_rng(axes).random((count, *GRIDS[axes]))
    # Ties, as of maps that are 0 in large parts.
    return np.where(values < 0.4, 0.0, values)


@pytest.mark.parametrize("axes", GRIDS)
def test_masks_of_any_grid_have_exactly_as_many_pixels_as_asked(axes):
    saliency, indices = maps(axes), np.arange(4)
    levels = saliency_levels(saliency, CUTS, indices)
    assert levels.shape == saliency.shape
    pixels = prod(GRIDS[axes])
    for cut in CUTS:
        for mode, count in (
            ("roar", pixels - pixels_at(cut, pixels)),
            ("kar", pixels_at(cut, pixels)),
        ):
            kept = Masking(mode, cut, CUTS).kept(levels)
            assert (kept.reshape(4, -1).sum(1) == count).all()
        # The least salient pixel that is within is no less salient than any outside.
        salient = levels <= CUTS.index(cut)
        for image in range(4):
            assert saliency[image][salient[image]].min() >= saliency[image][~salient[image]].max()
    # The same as of the map as one row: a ranking does not know the grid.
    flat = saliency_levels(saliency.reshape(4, 1, -1), CUTS, indices)
    assert np.array_equal(levels.reshape(4, -1), flat.reshape(4, -1))
    removed = levels == 0
    again = continued_levels(saliency, removed, 0.5, indices)
    assert (again[removed] == 0).all()
    broken = saliency.copy()
    broken[2].flat[3] = np.nan
    with pytest.raises(ValueError, match="image 2 holds NaN"):
        saliency_levels(broken, CUTS, indices)


@pytest.mark.parametrize("axes", GRIDS)
def test_elements_of_any_grid_are_the_channels_of_a_pixel_side_by_side(axes):
    saliency = maps(axes)
    shared = as_elements(saliency, 2, axes)
    assert shared.shape == (*saliency.shape[:-1], 2 * saliency.shape[-1])
    assert np.array_equal(shared[..., 0::2], saliency)
    assert np.array_equal(shared[..., 1::2], saliency)
    channels = np.stack([saliency, 2 * saliency], 1)
    own = as_elements(channels, 2, axes)
    assert np.array_equal(own[..., 1::2], 2 * saliency)


@pytest.mark.parametrize("axes", GRIDS)
def test_levels_of_any_grid_come_back_from_their_files(axes, tmp_path):
    levels = saliency_levels(maps(axes, 70), CUTS, np.arange(70))
    file = Levels.create(tmp_path / "train.zarr", levels.shape, CUTS)
    (shard,) = file.shards()
    assert not file.has(shard)
    file.write(shard, levels)
    assert file.has(shard)
    assert file.shape == levels.shape
    assert np.array_equal(file.read(10, 20), levels[10:20])
    file.seal()
    unpacked = unpack_levels(file, tmp_path / "train.npy")
    assert np.array_equal(unpacked[np.array([3, 69])], levels[[3, 69]])


@pytest.mark.parametrize("make", [make_volumes, make_signals])
def test_views_of_any_grid(make):
    split, _ = make(train=6, test=0)
    axes, channels = split.images.ndim - 2, split.images.shape[-1]
    mean, std = (0.5,) * channels, (0.25,) * channels
    indices = np.array([4, 1])
    inputs = InputView(split.images, mean, std)(indices)
    expected = (np.moveaxis(split.images[indices], -1, 1) / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(inputs.numpy(), expected, atol=1e-5)
    saliency = split.object_masks.astype(float)
    levels = saliency_levels(saliency, CUTS, np.arange(6))
    masking = Masking("roar", 0.25, CUTS)
    kept = masking.kept(levels)[indices][:, None]
    view = InputView(split.images, mean, std, levels, masking)
    np.testing.assert_allclose(view(indices).numpy(), expected * kept, atol=1e-5)
    shown = InputView(split.images, mean, std, levels, masking, mask_only=True)(indices)
    assert torch.equal(shown, torch.from_numpy(2.0 * kept - 1).expand(shown.shape).float())
    elements = saliency_levels(as_elements(saliency, channels, axes), CUTS, np.arange(6))
    by_element = InputView(split.images, mean, std, elements, masking)(indices)
    assert by_element.shape == inputs.shape


def test_the_linear_fill_is_for_signals_and_refused_for_volumes():
    signal = np.array([[[10], [0], [0], [40]]], np.uint8)
    filled = noisy_linear(signal, signal[..., 0] > 0, np.array([0]), noise=0)
    np.testing.assert_allclose(filled[0, :, 0], [10, 20, 30, 40], atol=1e-4)
    with pytest.raises(ValueError, match="take the fill mean"):
        noisy_linear(
            np.zeros((1, 4, 4, 4, 1), np.uint8), np.ones((1, 4, 4, 4), bool), np.array([0])
        )


def test_measures_of_any_grid():
    volume = np.zeros((1, 2, 3, 4))
    volume[0, 1] = 1.0
    # 12 of 24 voxels differ from their neighbour in depth by 1.
    assert total_variation(volume).tolist() == [0.5]
    assert total_variation(np.array([[0.0, 1.0, 0.0]])).tolist() == [pytest.approx(2 / 3)]
    assert png_bytes(np.zeros((1, 4, 4, 4)))[0] < png_bytes(maps(3)[:1])[0]
    inside = volume > 0
    assert mass_in_object(volume, inside).tolist() == [1.0]
    assert pointing_game(peaks(volume, np.array([0])), inside) == 1.0
    large = np.random.default_rng(0).random((1, 12, 12, 12))
    assert structural_similarities(large, 2 * large).tolist() == [pytest.approx(1.0)]
    with pytest.raises(ValueError, match=r"5x6x7.*needs at least 11x11x11"):
        structural_similarities(maps(3)[:1], maps(3)[:1])


@pytest.mark.parametrize("axes", GRIDS)
def test_deletion_of_any_grid_removes_the_most_salient_first(axes):
    size = GRIDS[axes]
    inputs = torch.zeros(1, 1, *size)
    inputs.flatten()[3] = 5.0
    network = nn.Sequential(nn.Flatten(), nn.Linear(prod(size), 2, bias=False))
    network[1].weight.data.zero_()[0, 3] = 1.0
    saliency = inputs[:, 0].numpy()
    ranked = by_saliency(saliency.reshape(1, -1), tie_orders(prod(size), np.array([0]), 0))
    shares = (0.0, 1.5 / prod(size), 1.0)
    for first, expected in (("most", 0.5), ("least", 1 / (1 + np.exp(-5.0)))):
        curves = perturbation_curves(
            network.eval(), with_channel_mean(inputs), torch.tensor([0]), ranked, size, shares,
            first=first,
        )  # fmt: skip
        assert curves.probability[0, 1] == pytest.approx(expected, abs=1e-6)


SETS = {
    "volumes": (make_volumes, "convnet-3d", {"train": 500, "test": 200, "size": 20}, 0.1, 7),
    "signals": (make_signals, "convnet-1d", {"train": 500, "test": 200}, 0.25, 8),
}


def interval(values: np.ndarray) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


@pytest.mark.training
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_maps_find_the_object_and_roar_and_kar_tell(name):
    """Planted truth: a small network is trained, and its maps are held against the objects."""
    make, model, counts, share, epochs = SETS[name]
    split, held_out = make(**counts)
    axes = tuple(range(split.images.ndim - 1))
    mean, std = (tuple((f(split.images, axes) / 255).tolist()) for f in (np.mean, np.std))
    size, channels = split.images.shape[1:-1], split.images.shape[-1]
    classes = int(split.labels.max()) + 1
    recipe = Recipe(epochs=epochs, batch_size=32, learning_rate=0.1, crop_padding=0, flip=False)

    def trained(of_train: InputView, of_test: InputView) -> tuple[nn.Module, float]:
        network = build_network(model, classes, 0, size=size, channels=channels)
        train(network, of_train, split.labels, recipe, 0)
        return network, float(correctness(network, of_test, held_out.labels).mean())

    views = [InputView(one.images, mean, std) for one in (split, held_out)]
    network, whole = trained(*views)
    assert whole > 0.7

    def explained(method: str, view: InputView, of) -> np.ndarray:
        inputs = view(np.arange(len(view)))
        if method == "object":
            return of.object_masks.astype(np.float64)
        if method == "random":
            return np.random.default_rng(0).random(of.object_masks.shape)
        if method == "centre":
            grid = np.indices(of.object_masks.shape[1:]).T - (np.array(size) - 1) / 2
            return np.broadcast_to(-np.sqrt((grid**2).sum(-1)).T, of.object_masks.shape)
        attributor = (FastCAM if method == "fastcam" else SMOEScale)(network, max_batch=64)
        return attributor.attribute(inputs, expand_channels=False)[:, 0].numpy()

    mass = {
        method: interval(
            mass_in_object(explained(method, views[1], held_out), held_out.object_masks)
        )
        for method in ("smoe", "fastcam", "random", "centre")
    }
    # Above both controls, with their intervals apart.
    for method in ("smoe", "fastcam"):
        assert mass[method][0] > max(mass["random"][1], mass["centre"][1]), mass

    def retrained(method: str, mode: str) -> float:
        masked = []
        for view, of in zip(views, (split, held_out), strict=True):
            levels = saliency_levels(
                explained(method, view, of), (share,), np.arange(len(of.labels))
            )
            masking = Masking(mode, share, (share,))
            masked.append(InputView(of.images, mean, std, levels, masking))
        return trained(*masked)[1]

    found = {
        (method, mode): retrained(method, mode)
        for method in ("object", "fastcam", "random")
        for mode in ("roar", "kar")
    }
    # The object is what the class can be told by.
    assert found["object", "kar"] > whole - 0.05, found
    assert found["object", "roar"] < found["random", "roar"] - 0.1, found
    assert found["fastcam", "roar"] < found["random", "roar"] - 0.05, found
    assert found["fastcam", "kar"] > found["random", "kar"] + 0.05, found
