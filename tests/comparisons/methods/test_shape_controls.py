"""Controls for the shape of a mask: random blobs, every method blurred; maps by channel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, label

from comparisons.methods import METHODS, Batch, get_method, is_method, resolve
from comparisons.methods.blobs import arrival_times
from comparisons.methods.blurred import blur
from evaluation.masking.levels import Masking, pixels_at, saliency_levels
from evaluation.masking.variants import BLURRED
from evaluation.networks.build import build_network

pytestmark = [
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU"),
    pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere"),
]
CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)


@pytest.fixture(scope="module")
def network():
    return build_network("resnet9", 4, 0, size=(16, 16)).eval()


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(0)
    return Batch(
        torch.randn(3, 3, 16, 16),
        torch.tensor([0, 1, 3]),
        torch.tensor([5, 6, 900]),
        2.0,
        (-1.0, -1.0, -1.0),
        torch.rand(3, 16, 16) > 0.8,
    )


@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
def test_every_prefix_of_a_blob_is_in_one_piece(size):
    for seed in range(5):
        times = arrival_times(*size, np.random.default_rng(seed))
        order = np.argsort(times, axis=None)
        for count in range(1, times.size, 7):
            region = np.zeros(times.size, bool)
            region[order[:count]] = True
            assert label(region.reshape(size))[1] == 1


def test_blobs_are_the_shortest_ways_through_the_drawn_times():
    # Bellman's equation, entry by entry, with the same draws taken one after another.
    draw = np.random.default_rng(3)
    drawn = draw.exponential(size=5 * 4 + 4 * 5)
    across, down = drawn[:20].reshape(5, 4), drawn[20:].reshape(4, 5)
    start = int(draw.integers(25))
    best = np.full((5, 5), np.inf)
    best.flat[start] = 0.0
    for _ in range(25):
        for y in range(5):
            for x in range(5):
                ways = [best[y, x]]
                ways += [best[y, x - 1] + across[y, x - 1]] if x else []
                ways += [best[y, x + 1] + across[y, x]] if x < 4 else []
                ways += [best[y - 1, x] + down[y - 1, x]] if y else []
                ways += [best[y + 1, x] + down[y, x]] if y < 4 else []
                best[y, x] = min(ways)
    np.testing.assert_allclose(arrival_times(5, 5, np.random.default_rng(3)), best)


def test_masks_of_blobs_have_exactly_k_pixels_in_one_piece(network):
    index = torch.arange(20)
    batch = Batch(torch.zeros(20, 3, 32, 32), index * 0, index, 1.0, (0.0, 0.0, 0.0))
    saliency = METHODS["random-blobs"].prepare(network)(batch).numpy()
    levels = saliency_levels(saliency, CUTS, index.numpy())
    for cut in CUTS:
        kept = Masking("kar", cut, CUTS).kept(levels)
        assert kept.sum((1, 2)).tolist() == [pixels_at(cut, 1024)] * 20
        assert [label(mask)[1] for mask in kept] == [1] * 20
    starts = saliency.reshape(20, -1).argmax(1)
    assert len(set(starts.tolist())) > 15


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 48, 32)])
def test_the_blur_is_scipy_s_gaussian(shape):
    maps = torch.rand(*shape, dtype=torch.float64)
    sigma = shape[-2] / 16
    reach = int(np.ceil(3 * sigma))
    sigmas = [0.0] * (len(shape) - 2) + [sigma, sigma]
    # "mirror" is reflection that does not repeat the border's pixel, as PyTorch has it.
    expected = gaussian_filter(maps.numpy(), sigmas, mode="mirror", radius=reach)
    np.testing.assert_allclose(blur(maps), expected, atol=1e-12)


def test_a_map_smaller_than_the_blur_s_reach_is_blurred_all_the_same():
    flat = torch.full((1, 16, 2), 3.0)
    torch.testing.assert_close(blur(flat), flat)


@pytest.mark.parametrize("name", ["random", "oracle", "smoe-linear", "gradient", "fastcam"])
def test_a_blurred_method_is_the_method_s_map_blurred(name, network, batch):
    plain, blurred = get_method(name), get_method(name + BLURRED)
    torch.testing.assert_close(
        blurred.prepare(network)(batch), blur(plain.prepare(network)(batch).detach())
    )
    assert blurred.name == name + "+blur"
    assert blurred.group == "control"
    assert blurred.passes == plain.passes
    assert blurred.needs_object_mask == plain.needs_object_mask
    assert blurred.parameters == {**plain.parameters, "blur_sigma_share": 1 / 16}


def test_blurred_forms_are_known_but_not_listed():
    assert is_method("gradient+blur")
    assert not is_method("lime+blur")
    assert not is_method("gradient+blur+blur")
    assert all(BLURRED not in name for name in METHODS)
    with pytest.raises(KeyError, match=r"lime\+blur"):
        get_method("lime+blur")
    with pytest.raises(ValueError, match=r"unknown method 'gradient\+blur\+blur'; choose"):
        get_method("gradient+blur+blur")


def test_a_list_may_name_blurred_methods_and_blurred_sets():
    chosen = resolve("ig,ig+blur,gradients+blur", has_object_masks=False)
    gradients = [name for name, entry in METHODS.items() if entry.group == "gradient"]
    own = [name + BLURRED for name in gradients if name != "ig"]
    assert chosen[:2] == ("ig", "ig+blur")
    assert sorted(chosen[2:]) == sorted(own)
    with pytest.raises(ValueError, match=r"method 'oracle\+blur' needs the true object's pixels"):
        resolve("oracle+blur", has_object_masks=False)
    assert "oracle+blur" not in resolve("controls+blur", has_object_masks=False)


_BY_CHANNEL = [name for name, entry in METHODS.items() if entry.by_channel is not None]


@pytest.mark.heavy
@pytest.mark.parametrize("name", [n for n in _BY_CHANNEL if METHODS[n].passes <= 25])
def test_channels_add_up_to_the_method_s_map(name, network, batch):
    entry = METHODS[name]
    channels = entry.by_channel(network)(batch).detach()
    assert channels.shape == (3, 3, 16, 16)
    assert (channels[:, 0] - channels[:, 1]).abs().max() > 0
    if name != "random":  # which is drawn anew for each channel
        plain = entry.prepare(network)(batch).detach()
        torch.testing.assert_close(channels.sum(1), plain, rtol=1e-5, atol=1e-7)


def test_gradient_methods_have_maps_by_channel():
    own = {name for name, entry in METHODS.items() if entry.group == "gradient"}
    assert own | {"random"} <= set(_BY_CHANNEL)
