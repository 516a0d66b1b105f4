"""Insertion, deletion and ROAD: a slow loop over pixels, and networks whose areas are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from evaluation.masking.imputation import noisy_linear
from evaluation.masking.levels import by_saliency, tie_orders
from evaluation.metrics.perturbation import area_under, perturbation_curves, with_channel_mean

SIZE = (3, 4)
PIXELS = SIZE[0] * SIZE[1]
EVERY_PIXEL = tuple(step / PIXELS for step in range(PIXELS + 1))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(60, 4))


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def _rankings(count: int) -> np.ndarray:
    return tie_orders(PIXELS, np.arange(count), 3)


@pytest.mark.parametrize("first", ["most", "least"])
def test_a_slow_loop_over_pixels_gives_the_same(first):
    network, images, ranked = _network(), _images(3), _rankings(3)
    target = torch.tensor([2, 0, 3])
    answers = perturbation_curves(
        network, with_channel_mean(images), target, ranked, SIZE, EVERY_PIXEL, first=first
    )
    for row in range(3):
        image = images[row].clone()
        order = ranked[row].tolist() if first == "most" else ranked[row].tolist()[::-1]
        for step in range(PIXELS + 1):
            if step:
                image[:, order[step - 1] // SIZE[1], order[step - 1] % SIZE[1]] = 0
            with torch.no_grad():
                logits = network(image[None])[0]
            expected = torch.exp(logits[target[row]]) / torch.exp(logits).sum()
            assert answers.probability[row, step] == pytest.approx(float(expected), abs=1e-6)
            assert answers.predicted[row, step] == int(logits.argmax())


def test_inserting_is_removing_read_backwards():
    """At each share the most salient pixels put on an empty image, one by one."""
    network, images, ranked = _network(), _images(1), _rankings(1)
    answers = perturbation_curves(
        network,
        with_channel_mean(images),
        torch.tensor([1]),
        ranked,
        SIZE,
        EVERY_PIXEL,
        first="least",
    )
    canvas = torch.zeros_like(images)
    inserted = []
    for place in [None, *ranked[0].tolist()]:
        if place is not None:
            row, column = divmod(place, SIZE[1])
            canvas[:, :, row, column] = images[:, :, row, column]
        with torch.no_grad():
            inserted.append(float(network(canvas).softmax(1)[0, 1]))
    np.testing.assert_allclose(answers.probability[0, ::-1], inserted, atol=1e-6)
    # RISE's area: all steps alike, the two ends half.
    area = (sum(inserted) - inserted[0] / 2 - inserted[-1] / 2) / PIXELS
    assert answers.area[0] == pytest.approx(area, abs=1e-6)


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_area_of_a_linear_network_is_its_integral(slope):
    """Equal pixels, equal weights: the logit falls in a line, the probability is a sigmoid."""
    side = 40
    network = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 2, bias=False))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0] = slope / (side * side)
    images = torch.ones(1, 1, side, side)
    ranked = tie_orders(side * side, np.array([0]), 0)
    shares = tuple(step / 50 for step in range(51))
    for first in ("most", "least"):
        answers = perturbation_curves(
            network,
            with_channel_mean(images),
            torch.tensor([0]),
            ranked,
            (side, side),
            shares,
            first=first,
        )
        expected = quad(lambda s: 1 / (1 + math.exp(-slope * (1 - s))), 0, 1)[0]
        assert answers.area[0] == pytest.approx(expected, abs=1e-4)


def test_only_pixel_that_counts_goes_first_or_last():
    """One pixel decides: right ranking deletes it at once, the opposite one at the very end."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2, bias=False))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0, 5] = 50.0
    saliency = np.zeros((1, PIXELS))
    saliency[0, 5] = 1.0
    orders = tie_orders(PIXELS, np.array([0]), 0)
    shown = with_channel_mean(torch.ones(1, 1, *SIZE))
    areas = {}
    for name, values in (("right", saliency), ("wrong", -saliency)):
        ranked = by_saliency(values, orders)
        most, least = (
            perturbation_curves(
                network, shown, torch.tensor([0]), ranked, SIZE, EVERY_PIXEL, first=first
            ).area[0]
            for first in ("most", "least")
        )
        areas[name] = most, least
    # Probability 1 with the pixel, 1/2 without: one trapezoid of a twelfth between them.
    low, high = 0.5 + 0.25 / PIXELS, 1.0 - 0.25 / PIXELS
    assert areas["right"] == pytest.approx((low, high), abs=1e-9)
    assert areas["wrong"] == pytest.approx((high, low), abs=1e-9)


def test_road_is_the_mean_accuracy_of_a_loop_over_steps():
    network = _network()
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)
    labels, indices, ranked = rng.integers(0, 4, 6), np.arange(6), _rankings(6)

    def as_inputs(filled):
        return torch.from_numpy(filled / 64 - 2).float().permute(0, 3, 1, 2)

    def shown(kept):
        return as_inputs(noisy_linear(pixels, kept, indices))

    shares = (0.0, 0.25, 0.5, 0.75)
    answers = perturbation_curves(
        network, shown, torch.zeros(6, dtype=torch.int64), ranked, SIZE, shares, first="most"
    )
    accuracies = []
    for count in (3, 6, 9):
        right = 0
        for image in range(6):
            kept = np.ones(PIXELS, bool)
            kept[ranked[image, :count]] = False
            filled = noisy_linear(
                pixels[image : image + 1], kept.reshape(1, *SIZE), indices[image : image + 1]
            )
            with torch.no_grad():
                right += int(network(as_inputs(filled)).argmax()) == labels[image]
        accuracies.append(right / 6)
    assert answers.accuracy(labels).mean() == pytest.approx(np.mean(accuracies))


def test_monotone_change_of_the_map_changes_nothing():
    network, images = _network(), _images(2)
    saliency = np.random.default_rng(0).normal(size=(2, PIXELS))
    orders = tie_orders(PIXELS, np.arange(2), 0)
    found = [
        perturbation_curves(
            network,
            with_channel_mean(images),
            torch.tensor([0, 1]),
            by_saliency(values, orders),
            SIZE,
            EVERY_PIXEL,
            first="most",
        ).probability
        for values in (saliency, np.exp(3 * saliency) - 7)
    ]
    np.testing.assert_array_equal(*found)


def test_area_is_numpys_trapezoid_over_the_width():
    heights = np.random.default_rng(0).random((4, 3))
    expected = [np.trapezoid(row, [0.1, 0.2, 0.6]) / 0.5 for row in heights]
    np.testing.assert_allclose(area_under((0.1, 0.2, 0.6), heights), expected)


@pytest.mark.parametrize("shares", [(), (0.5, 0.5), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.5)])
def test_shares_that_are_no_steps_are_refused(shares):
    with pytest.raises(ValueError, match="expected rising shares"):
        perturbation_curves(
            _network(),
            with_channel_mean(_images(1)),
            torch.tensor([0]),
            _rankings(1),
            SIZE,
            shares,
            first="most",
        )


def test_the_ends_of_the_other_order_are_taken_and_not_shown_again():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    inputs = torch.rand(3, 3, 4, 4)
    ranked = np.stack([np.random.default_rng(row).permutation(16) for row in range(3)])
    shown: list[float] = []

    def perturb(kept: np.ndarray) -> torch.Tensor:
        shown.append(float(kept.mean()))
        return with_channel_mean(inputs)(kept)

    shares = (0.0, 0.25, 0.5, 1.0)
    given = network, perturb, torch.tensor([0, 1, 2]), ranked, (4, 4), shares
    most = perturbation_curves(*given, first="most")
    alone = perturbation_curves(*given, first="least")
    shown.clear()
    least = perturbation_curves(*given, first="least", ends=most)
    np.testing.assert_array_equal(least.probability, alone.probability)
    np.testing.assert_array_equal(least.predicted, alone.predicted)
    assert shown == [0.75, 0.5]
    with pytest.raises(ValueError, match="ends of the shares"):
        perturbation_curves(*given[:-1], (0.0, 1.0), first="least", ends=most)
