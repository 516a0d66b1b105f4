"""Passes with several images, or several views of one: each picture has its own map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale, find_scales, watch

pytestmark = pytest.mark.training


def branch(classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    return branch()


def views(count=2, images=3, size=16):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(images, 3, size, size, generator=generator) for _ in range(count)]


def expected(network, image):
    return SMOEScale(network, ["1", "4"]).maps(image).combined


def test_two_views_a_step_have_a_pass_each(network):
    samples = []
    pairs = [views(2) for _ in range(2)]
    with watch(network, 1, samples.append, layers=["1", "4"]):
        for one, other in pairs:
            F.mse_loss(network(one), network(other)).backward()
    given = [view for pair in pairs for view in pair]
    for sample, view in zip(samples, given, strict=True):
        assert torch.equal(sample.images, view)
        assert torch.equal(sample.combined, expected(network, view))


class Siamese(nn.Module):
    """One backbone for two images, which are given in one order and run in another."""

    def __init__(self, order=(0, 1), detour=lambda image: image):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = branch()
        self.order, self.detour = order, detour

    def forward(self, *images):
        codes = {index: self.encoder(self.detour(images[index])) for index in self.order}
        return (codes[0] - codes[1]).square().sum(1)


DETOURS = {
    "as it is": lambda image: image,
    "in place": lambda image: image.clone().mul_(2).sub_(0.5),
    "batch of a loop": lambda image: torch.stack([one * 2 for one in image]),
}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("detour", DETOURS)
@pytest.mark.parametrize("statistic", ["smoe_scale", "truncnormal_mean"])
@pytest.mark.parametrize("sizes", [(16, 16), (16, 8), (8, 16)])
def test_a_siamese_network_shows_the_first_image_with_its_own_map(order, detour, statistic, sizes):
    model = Siamese(order, DETOURS[detour])
    given = [views(1, size=size)[0] for size in sizes]
    given[1] = given[1].flip(3)
    with watch(model, 1, layers=["encoder.1", "encoder.4"], statistic=statistic) as w:
        model(*given)
    wanted = SMOEScale(model.encoder, ["1", "4"], statistic=statistic)
    assert torch.equal(w.latest.images, given[0])
    found = wanted.maps(model.detour(given[0])).combined
    torch.testing.assert_close(w.latest.combined, found, rtol=0, atol=1e-6)


def test_layers_of_the_second_branch_show_the_second_image():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = branch(), branch()

        def forward(self, photo, depth):
            return self.one(photo) + self.two(depth)

    torch.manual_seed(0)
    model, (photo, depth) = Pair(), views(2)
    for name, image in (("one", photo), ("two", depth)):
        with watch(model, 1, layers=[f"{name}.1", f"{name}.4"]) as w:
            model(photo, depth=depth)
        assert torch.equal(w.latest.images, image)
        assert torch.equal(w.latest.combined, expected(getattr(model, name), image))
    with (
        watch(model, 1, layers=["one.1", "two.4"]),
        pytest.raises(ValueError, match=r"no one of them is seen by all layers .*two.4'.*\[1\]"),
    ):
        model(photo, depth)


def test_a_scale_with_its_call_shows_the_image_of_that_call():
    model, (one, other) = Siamese(), views(2)
    first, last = find_scales(model.encoder, one)
    for call, image in enumerate((one, other)):
        scales = [
            type(scale)(**{**vars(scale), "call": call, "name": f"encoder.{scale.name}"})
            for scale in (first, last)
        ]
        with watch(model, 1, layers=scales) as w:
            model(one, other)
        assert torch.equal(w.latest.images, image)
        assert torch.equal(w.latest.combined, expected(model.encoder, image))


def test_a_layer_for_one_image_and_for_both_is_told():
    class Fusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, one, other):
            return self.relu(self.relu(self.conv(one)) + self.relu(self.conv(other)))

    model = Fusing()
    with watch(model, 1, layers="relu"), pytest.raises(ValueError, match="which call to read"):
        model(*views(2))


@pytest.mark.parametrize(
    "together",
    [
        lambda net, x: torch.cat([net(part) for part in x.chunk(2)]),
        lambda net, x: torch.cat([net(one[None]) for one in x]),
    ],
    ids=["halves", "one at a time"],
)
def test_parts_of_a_batch_are_told_and_the_part_is_watched(together):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = branch()

        def forward(self, x):
            return together(self.encoder, x)

    torch.manual_seed(0)
    model, image, samples = Whole(), views(1, 4)[0], []
    message = r"where the images are 4.*fastsal.watch\(model.encoder\)"
    layers = ["encoder.1", "encoder.4"]
    with watch(model, 1, layers=layers), pytest.raises(ValueError, match=message):
        model(image)
    with watch(model.encoder, 1, samples.append, layers=["1", "4"]):
        model(image)
    for sample in samples:
        assert torch.equal(sample.combined, expected(model.encoder, sample.images))


@pytest.mark.parametrize(
    "together",
    [
        lambda net, x: net(torch.cat([x, x.flip(3)])).chunk(2)[0],
        lambda net, x: net(torch.stack([x, x.flip(3)], 1).flatten(0, 1))[::2],
    ],
    ids=["after another", "by turns"],
)
@pytest.mark.parametrize("count", [1, 3, 8])
def test_views_in_one_batch_are_laid_on_their_image(together, count):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = branch()

        def forward(self, x):
            return together(self.encoder, x)

    torch.manual_seed(0)
    model, image = Whole(), views(1, 4)[0]
    with watch(model, 1, layers=["encoder.1", "encoder.4"], images=count) as watched:
        model(image)
    # The mean of an image's map and of its mirror's, mirrored back.
    own, mirrored = expected(model.encoder, image), expected(model.encoder, image.flip(3))
    right = (own + mirrored.flip(2)) / 2
    assert torch.allclose(watched.latest.combined, right[:count], atol=1e-5)
