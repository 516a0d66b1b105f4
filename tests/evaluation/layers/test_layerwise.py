"""Masks inside a network: exact counts, zeros, files, and a planted truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.layers.layer_arrays import (
    RANDOM,
    cache_activations,
    scales_named,
    statistic_maps,
    write_locations,
)
from evaluation.layers.layerwise import ActivationView, Locations, kept_locations, rank_locations
from evaluation.layers.tails import tail_of
from evaluation.masking.levels import tie_orders
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.training.retraining import Recipe, correctness, train
from fastsal import find_scales
from fastsal.statistics.registry import STATISTICS

pytestmark = pytest.mark.training

MAPS = {
    "distinct": np.random.default_rng(0).random((3, 16, 16)),
    "all tied": np.zeros((3, 16, 16)),
    "few values": np.random.default_rng(1).integers(0, 3, (3, 16, 16)).astype(float),
}


@pytest.mark.parametrize("name", MAPS)
def test_locations_that_pass_are_those_of_a_slow_sort(name):
    maps, share = MAPS[name], Locations(kar=0.025, roar=0.1)
    orders = tie_orders(256, np.arange(3), 0)
    bits = rank_locations(maps, orders, share)
    for row in range(3):
        drawn = {int(pixel): place for place, pixel in enumerate(orders[row])}
        flat = maps[row].ravel()
        ranked = sorted(range(256), key=lambda pixel: (-flat[pixel], drawn[pixel]))
        # 2.5 % and 10 % of 256 locations are 6.4 and 25.6.
        expected = {"kar": set(ranked[:6]), "roar": set(ranked[-26:])}
        for mode in ("kar", "roar"):
            kept = np.flatnonzero(kept_locations(bits[row], mode))
            assert set(kept.tolist()) == expected[mode]


def test_shares_of_more_than_everything_may_overlap():
    maps = np.arange(4.0).reshape(1, 2, 2)
    bits = rank_locations(maps, np.array([[0, 1, 2, 3]]), Locations(kar=0.75, roar=0.5))
    assert kept_locations(bits, "kar")[0].tolist() == [[False, True], [True, True]]
    assert kept_locations(bits, "roar")[0].tolist() == [[True, True], [False, False]]


def test_at_least_one_location_passes():
    share = Locations(kar=0.025, roar=0.1)
    assert [share.count("kar", side**2) for side in (1, 2, 4, 7, 8)] == [1, 1, 1, 1, 2]
    assert share.count("roar", 4) == 1


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1])
def test_a_share_of_all_or_nothing_is_refused(value):
    with pytest.raises(ValueError, match=r"roar fraction .*: expected more than 0 and less"):
        Locations(roar=value)


def test_the_tail_sees_zeros_in_all_channels_and_the_rest_as_it_was():
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((2, 4, 4, 5)).astype(np.float32)
    bits = rank_locations(rng.random((2, 4, 4)), tie_orders(16, np.arange(2), 0), Locations())
    for mode, count in (("kar", 1), ("roar", 2)):
        seen = ActivationView(activations, bits, mode)(np.array([1, 0])).permute(0, 2, 3, 1).numpy()
        kept = kept_locations(bits, mode)[[1, 0]]
        assert kept.sum((1, 2)).tolist() == [count, count]
        assert (seen[~kept] == 0).all()
        assert (seen[kept] == activations[[1, 0]][kept]).all()
    nested = ActivationView(activations, bits, "kar", channels_last=True)(np.array([0]))
    assert nested.shape == (1, 4, 4, 5)


@pytest.fixture(scope="module")
def small():
    """A network of four scales and 20 images."""
    network = build_network("resnet9", 4, 0, size=(32, 32)).eval()
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    view = InputView(images, (0.5,) * 3, (0.25,) * 3)
    return network, find_scales(network, view(np.arange(2)).contiguous()), view


def _hooked(network: nn.Module, module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    seen = []
    handle = module.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        network(inputs)
    handle.remove()
    return seen[0]


def test_activations_on_disk_are_those_of_a_hook(small, tmp_path):
    network, scales, view = small
    chosen = np.array([3, 19, 4])
    paths = [tmp_path / f"{place}.npy" for place in range(len(scales))]
    cache_activations(network, scales, view, chosen, paths)
    for scale, path in zip(scales, paths, strict=True):
        expected = _hooked(network, scale.module, view(chosen))
        stored = np.load(path)
        assert torch.equal(torch.from_numpy(stored).permute(0, 3, 1, 2), expected)
    assert not list(tmp_path.glob(".partial-*"))


def test_activations_that_are_not_finite_leave_no_file(small, tmp_path):
    _, scales, view = small
    broken = build_network("resnet9", 4, 0, size=(32, 32)).eval()
    with torch.no_grad():
        broken.stage2[0][0].weight.fill_(float("inf"))
    found = scales_named(broken, [scale.name for scale in scales], view(np.arange(2)).contiguous())
    paths = [tmp_path / f"{place}.npy" for place in range(4)]
    with pytest.raises(
        ValueError, match=r"layer 'stage2\.0' gives activations that are not finite"
    ):
        cache_activations(broken, found, view, np.arange(20), paths)
    assert not list(tmp_path.iterdir())


def test_an_unknown_scale_is_named(small):
    network, _, view = small
    with pytest.raises(ValueError, match=r"no scale at layer 'stage9'.*stage1\.0"):
        scales_named(network, ["stage9"], view(np.arange(2)).contiguous())


@pytest.mark.parametrize(
    "name", [name for name, s in STATISTICS.items() if s.domain == "post_relu"]
)
def test_maps_are_of_the_unmasked_activations_at_the_layer(small, name):
    network, scales, view = small
    inputs = view(np.arange(4)).contiguous()
    maps = statistic_maps(network, scales, [name], inputs)[name]
    for scale, found in zip(scales, maps, strict=True):
        expected = STATISTICS[name](_hooked(network, scale.module, inputs))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, s in STATISTICS.items() if s.domain == "pre_relu"])
def test_maps_of_what_is_defined_before_the_relu_are_of_what_the_relu_was_given(small, name):
    network, scales, view = small
    inputs = view(np.arange(4)).contiguous()
    maps = statistic_maps(network, scales, [name, "mean"], inputs)[name]
    # The last scale ends in a sum that no ReLU follows: it is read as it is.
    for scale, found in zip(scales[:-1], maps[:-1], strict=True):
        norm = scale.module[1]
        assert isinstance(norm, nn.BatchNorm2d)
        before = _hooked(network, norm, inputs)
        assert before.min() < 0
        np.testing.assert_allclose(found, STATISTICS[name](before).numpy(), rtol=1e-4, atol=1e-5)


def test_the_random_control_is_fixed_for_an_image_and_knows_no_statistic(small, tmp_path):
    network, scales, view = small

    def written(folder: str, statistics: list[str], chosen: np.ndarray) -> list[np.ndarray]:
        paths = {
            name: [tmp_path / folder / f"{name}-{place}.npy" for place in range(4)]
            for name in statistics
        }
        write_locations(network, scales, statistics, view, chosen, 100 + chosen, paths, Locations())
        return [np.load(path) for path in paths[RANDOM]]

    beside = written("a", ["mean", RANDOM], np.arange(20))
    alone = written("b", [RANDOM], np.array([7, 2]))
    for place, (all_bits, few) in enumerate(zip(beside, alone, strict=True)):
        assert (all_bits[[7, 2]] == few).all()
        locations = all_bits[0].size
        assert (all_bits != 0).any(), place
        kept = kept_locations(all_bits, "roar").reshape(20, -1)
        assert (kept.sum(1) == max(1, round(0.1 * locations))).all()
        # Of 20 images no two have the same, and nowhere is kept by all.
        assert len({row.tobytes() for row in kept}) > 1
        assert kept.mean(0).max() < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("statistic", ["smoe_scale", "std", "shannon_entropy"])
def test_activations_that_are_not_finite_name_their_layer(small, tmp_path, value, statistic):
    network, scales, view = small
    layer = scales[1]
    handle = layer.module.register_forward_hook(
        lambda _, __, output: output.index_put(
            (torch.tensor(1), torch.tensor(0)), torch.tensor(value)
        )
    )
    paths = [tmp_path / f"{place}.npy" for place in range(len(scales))]
    given = network, scales, [statistic], view, np.arange(2), np.arange(2), {statistic: paths}
    try:
        with pytest.raises(
            ValueError, match=f"layer '{layer.name}' gives activations that are not"
        ):
            write_locations(*given, Locations())
        with pytest.raises(
            ValueError, match=f"layer '{layer.name}' gives activations that are not"
        ):
            cache_activations(network, scales, view, np.arange(2), paths)
    finally:
        handle.remove()
    assert not list(tmp_path.iterdir())


# A truth planted at known locations: the class is the colour of some pixels, all others are grey.


class _Planted(nn.Module):
    """A network whose first scale is each pixel's distance from grey, without training."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Conv2d(3, 4, 1, bias=False)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.mix = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.ReLU()
        self.head = nn.Linear(8, 3)
        weight = torch.cat([torch.eye(3) - 1 / 3, torch.full((1, 3), 0.01)])
        self.colours.weight = nn.Parameter(weight.reshape(4, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.mix(self.pool(self.relu(self.colours(x)))))
        return self.head(x.amax((2, 3)))


def _planted(coloured: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey noise of 16x16 with `coloured` pixels of the class's colour, somewhere else in each."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    images = np.repeat(rng.integers(100, 156, (count, 256, 1)), 3, axis=2).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[rng.permutation(256)[:coloured], label] = 255
    return images.reshape(count, 16, 16, 3), labels.astype(np.int64)


def _accuracies(mode: str, coloured: int, folder) -> dict[str, float]:
    torch.manual_seed(0)
    start = _Planted().state_dict()
    images, labels = _planted(coloured, 600)
    view = InputView(images, (0.5,) * 3, (0.25,) * 3)
    found = {}
    for name in (RANDOM, "std", "smoe_scale"):
        network = _Planted().eval()
        network.load_state_dict(start)
        example = view(np.arange(2)).contiguous()
        scales = find_scales(network, example)
        paths = [folder / f"{place}.npy" for place in range(2)]
        bits = [folder / f"{name}-{place}.npy" for place in range(2)]
        everything = np.arange(600)
        cache_activations(network, scales, view, everything, paths)
        write_locations(
            network, scales, [name], view, everything, everything, {name: bits}, Locations()
        )
        seen = np.load(paths[0]), np.load(bits[0])
        tail = tail_of(network, scales[0], example)
        recipe = Recipe(epochs=6, learning_rate=0.2, crop_padding=0, flip=False, batch_size=32)
        train(tail, ActivationView(seen[0][:450], seen[1][:450], mode), labels[:450], recipe, 0)
        tested = ActivationView(seen[0][450:], seen[1][450:], mode)
        found[name] = float(correctness(tail, tested, labels[450:]).mean())
    return found


def test_a_statistic_that_finds_the_planted_pixels_keeps_the_class(tmp_path):
    found = _accuracies("kar", 2, tmp_path)
    assert found["std"] > 0.95
    assert found["smoe_scale"] > 0.95
    assert found[RANDOM] < 0.6


def test_a_statistic_that_finds_the_planted_pixels_removes_the_class(tmp_path):
    found = _accuracies("roar", 100, tmp_path)
    assert found[RANDOM] > 0.95
    assert found["std"] < 0.5
    assert found["smoe_scale"] < 0.5
