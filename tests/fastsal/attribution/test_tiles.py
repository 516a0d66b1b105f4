"""Tiles: the same maps as of the whole image, in the memory of one tile."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from evaluation.profiling.memory import count_memory
from fastsal import SMOEScale
from fastsal.attribution.tiles import spans


def network(padding=1, pool=2):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(pool),
        nn.Conv2d(6, 8, 3, padding=padding),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2, padding=padding),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


def images(height=150, width=203, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


# A location of the last layer sees 14 pixels, so none further than 8 from its tile.
ENOUGH = {"tile": (64, 48), "overlap": 8}


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"statistic": "std", "normalize": "minmax"},
        {"statistic": "truncnormal_mean", "normalize": "gamma"},
        {"normalize_over": "batch", "weights": "equal"},
        {"max_batch": 1, "normalize": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("layers", [None, ["1", "5", "7"]], ids=["found", "given"])
@pytest.mark.parametrize("size", [(150, 203), (256, 192), (65, 49), (64, 300)], ids=str)
def test_with_overlap_enough_the_maps_are_those_of_the_whole_image(options, layers, size):
    given = images(*size)
    net = network()
    expected = SMOEScale(net, layers, **options).maps(given)
    found = SMOEScale(net, layers, **options, **ENOUGH).maps(given)
    # As it is, the statistic's logarithm shows what rounding leaves of an activation beside 0.
    close = {"atol": 1e-3 if options.get("normalize") == "none" else 2e-6, "rtol": 1e-5}
    for one, other in zip(found.per_scale, expected.per_scale, strict=True):
        torch.testing.assert_close(one, other, **close)
    torch.testing.assert_close(found.combined, expected.combined, **close)
    assert (found.logits is None) == (max(size) > 80)


def test_networks_without_padding_are_joined_by_their_grid():
    given = images(161, 190)
    net = network(padding=0)
    expected = SMOEScale(net).maps(given)
    found = SMOEScale(net, tile=(32, 64), overlap=16).maps(given)
    assert [one.shape for one in found.per_scale] == [one.shape for one in expected.per_scale]
    for one, other in zip(found.per_scale, expected.per_scale, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="take a larger overlap"):
        SMOEScale(net, tile=(32, 64), overlap=0).maps(given)


def test_without_overlap_there_are_seams_and_nothing_else():
    given = images(128, 128, 1)
    net = network()
    options = {"layers": ["5"], "normalize": "none"}
    expected = SMOEScale(net, **options).maps(given).per_scale[0]
    found = SMOEScale(net, **options, tile=(64, 64), overlap=0).maps(given).per_scale[0]
    near = torch.zeros(64, dtype=torch.bool)
    # A location of layer 5 sees 3 pixels beside its own two: the two next to a seam see over it.
    near[30:34] = True
    seam = near[:, None] | near
    wrong = (found - expected)[0].abs() > 1e-5
    assert wrong[seam].float().mean() > 0.5
    assert not wrong[~seam].any()


def test_an_attribution_keeps_captum_s_shape():
    given = images(150, 150)
    attributor = SMOEScale(network(), tile=(64, 64), overlap=16)
    attribution = attributor.attribute(given, target=1)
    assert attribution.shape == given.shape
    assert torch.equal(attribution[:, 0], attribution[:, 2])
    with pytest.raises((ValueError, AssertionError, IndexError)):
        attributor.attribute(given, target=9)


def test_memory_does_not_grow_with_the_image_but_by_its_maps():
    net = network()

    def scratch(side, **options):
        attributor = SMOEScale(net, ["1", "5", "7"], weights="equal", **options)
        given = images(side, side, 1)
        call = lambda: attributor.attribute(given, expand_channels=False)  # noqa: E731
        call()
        return count_memory(call).scratch_bytes

    small, large = (scratch(side, tile=(64, 64), overlap=16) for side in (128, 512))
    # Each scale's map, once in rows of tiles and once whole: float32, of strides 1, 2 and 4; and
    # one that is upsampled while they are combined, where Numba is not installed.
    maps = 4 * (1 + 1 / 4 + 1 / 16)
    grown = (512**2 - 128**2) * (2 * maps + 4)
    assert large - small <= grown
    # The whole image at once holds two layers' activations.
    assert large < scratch(512) / 3


class Counted(nn.Sequential):
    # Of the class, since what a pass changes in the model itself is undone.
    sizes: ClassVar[list] = []

    def forward(self, inputs):
        self.sizes.append(tuple(inputs.shape[2:]))
        return super().forward(inputs)


def test_every_tile_is_shown_once_with_its_surroundings():
    net = Counted(*network())
    Counted.sizes.clear()
    attributor = SMOEScale(net, tile=(64, 64), overlap=10)
    attributor.maps(images(200, 150, 1))
    # The overlap is rounded up to the stride, 4; to find scales it need not be.
    assert net.sizes[0] == (84, 84)
    assert len(net.sizes) == 1 + 4 * 3
    assert set(net.sizes[1:]) == {(88, 88), (88, 90)}


@pytest.mark.parametrize("length", [64, 65, 100, 127, 128, 129, 1000])
def test_tiles_cover_every_pixel_once_and_are_shown_their_surroundings(length):
    for overlap in (0, 5, 32):
        found = spans(length, 64, overlap, 32)
        assert [span.start for span in found] == list(range(0, length, 64))
        assert [span.stop for span in found] == [*range(64, length, 64), length]
        for span in found:
            assert span.shown_start % 32 == 0
            assert span.shown_start <= max(0, span.start - overlap)
            assert span.shown_stop >= min(length, span.stop + overlap)
            assert span.shown_stop - span.shown_start <= 64 + 2 * 32 * (overlap > 0) + 31


def test_what_cannot_be_tiled_says_what_to_do():
    net = network()
    given = images()
    cases = [
        ({"tile": (2, 64)}, r"layer '7' has stride 4.* take tile=\(4, 64\)"),
        ({"tile": (64, 66)}, r"multiples of 4; take tile=\(64, 64\)"),
        ({"tile": (64,)}, r"tile=\(64,\) has 1 number\(s\).* give tile=\(height, width\)"),
        ({"tile": ()}, r"tile is \(height, width\)"),
        ({"tile": (64, 0)}, r"tile is \(height, width\)"),
        ({"tile": 64}, r"tile is \(height, width\)"),
        ({"tile": (64, 64), "overlap": -1}, "overlap is a number of pixels"),
    ]
    for options, message in cases:
        for layers in (None, ["1", "7"]):
            with pytest.raises(ValueError, match=message):
                SMOEScale(net, layers, **{"overlap": 8, **options}).maps(given)
    # Stride 6 in all, taken for 8.
    with pytest.raises(ValueError, match="stride 8 does not explain"):
        SMOEScale(network(pool=3), ["7"], tile=(64, 64), overlap=0).maps(images(192, 192))
