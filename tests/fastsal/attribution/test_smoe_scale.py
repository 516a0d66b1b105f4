"""SMOEScale against an independent loop, and on awkward networks and inputs."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision
from scipy import stats
from torch import nn

from fastsal import Maps, SMOEScale, find_scales, smoe_scale
from fastsal.maps.combination import combine
from fastsal.maps.normalization import NORMALIZATIONS
from fastsal.maps.prior import layer_weights
from fastsal.statistics.registry import STATISTICS, Statistic

RESNET = ("relu", "layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def resnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def small_network(inplace=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(inplace),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        ).eval()


def stages(model, images):
    """The five tensors of a torchvision ResNet, its forward written out."""
    tensors = [model.relu(model.bn1(model.conv1(images)))]
    x = model.maxpool(tensors[0])
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = layer(x)
        tensors.append(x)
    return tensors


def independent_map(tensors, weights, size):
    """Equation 3 image by image: SciPy's normal CDF, F.interpolate, a plain sum."""
    images = []
    for n in range(len(tensors[0])):
        total = torch.zeros(size, dtype=torch.float64)
        for tensor, weight in zip(tensors, weights, strict=True):
            column = tensor[n].double() + 1e-6
            mu = column.mean(0)
            phi = (mu * torch.log2(mu / column)).mean(0)
            if phi.numel() > 1:
                squashed = stats.norm.cdf(phi.numpy(), phi.mean().item(), phi.std().item())
            else:
                squashed = [[0.5]]
            squashed = torch.as_tensor(squashed, dtype=torch.float64)[None, None]
            total += weight * F.interpolate(squashed, size, mode="bilinear")[0, 0]
        images.append(total / sum(weights))
    return torch.stack(images)


@pytest.mark.parametrize(
    ("weights", "numbers"),
    [
        ("linear", (1, 2, 3, 4, 5)),
        ("equal", (1, 1, 1, 1, 1)),
        ("prior", (0.18, 0.15, 0.37, 0.4, 0.72)),
        ((5, 0, 0, 1, 0.5), (5, 0, 0, 1, 0.5)),
    ],
)
def test_equals_the_independent_loop(resnet, images, weights, numbers):
    with torch.no_grad():
        expected = independent_map(stages(resnet, images), numbers, (64, 96))
    attribution = SMOEScale(resnet, weights=weights).attribute(images)
    for channel in range(3):
        torch.testing.assert_close(attribution[:, channel].double(), expected, rtol=0, atol=2e-5)


def test_maps_are_one_pass(resnet, images):
    attributor = SMOEScale(resnet)
    attributor.attribute(images)
    calls = []
    handle = resnet.conv1.register_forward_hook(lambda *_: calls.append(1))
    maps = attributor.maps(images)
    handle.remove()
    assert len(calls) == 1
    assert isinstance(maps, Maps)
    assert [scale.name for scale in maps.scales] == list(RESNET)
    assert [tuple(m.shape[1:]) for m in maps.per_scale] == [
        (32, 48),
        (16, 24),
        (8, 12),
        (4, 6),
        (2, 3),
    ]
    assert torch.equal(maps.logits, resnet(images))
    average = (maps.stacked * torch.arange(1.0, 6)[:, None, None]).sum(1) / 15
    torch.testing.assert_close(average, maps.combined, rtol=0, atol=1e-6)
    assert torch.equal(attributor.attribute(images)[:, 0], maps.combined)


def test_given_layers_in_any_form_equal_those_found(resnet, images):
    expected = SMOEScale(resnet).attribute(images)
    mixed = ["relu", resnet.layer1, find_scales(resnet, images)[2], "layer3", resnet.layer4]
    # The ReLU of the stem is called once; its name and the module are the same layer.
    assert torch.equal(SMOEScale(resnet, mixed).attribute(images), expected)
    by_function = SMOEScale(lambda x: resnet(x), [resnet.get_submodule(n) for n in RESNET])
    assert torch.equal(by_function.attribute(images), expected)
    assert torch.equal(SMOEScale(resnet.forward).attribute(images), expected)


def test_a_single_layer_and_its_input(images):
    net = small_network()
    single = SMOEScale(net, net[5]).attribute(images)
    with torch.no_grad():
        expected = independent_map([net[:6](images)], [1], (64, 96))
        before = independent_map([net[:4](images)], [1], (64, 96))
    torch.testing.assert_close(single[:, 0].double(), expected, rtol=0, atol=2e-5)
    of_input = SMOEScale(net, net[4]).attribute(images, attribute_to_layer_input=True)
    torch.testing.assert_close(of_input[:, 0].double(), before, rtol=0, atol=2e-5)


def test_a_batch_equals_the_loop(resnet, images):
    attributor = SMOEScale(resnet)
    batch = attributor.attribute(images)
    loop = torch.cat([attributor.attribute(image[None]) for image in images])
    torch.testing.assert_close(batch, loop, rtol=0, atol=1e-5)


def test_in_place_and_functional_relus_give_the_same_map(images):
    class Functional(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.conv1, self.bn, self.conv2, self.fc = net[0], net[1], net[4], net[8]

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.bn(self.conv1(x)), inplace=True), 2)
            return self.fc(F.relu(self.conv2(x), inplace=True).mean((2, 3)))

    expected = SMOEScale(small_network()).attribute(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(SMOEScale(small_network(inplace=True)).attribute(images), expected)
        assert torch.equal(SMOEScale(Functional(small_network())).attribute(images), expected)


def test_signed_activations_are_rectified_with_one_warning(images):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.GELU()
    )
    attributor = SMOEScale(net)
    with pytest.warns(UserWarning, match=r"layer\(s\) 1, 4 give negative activations") as caught:
        first = attributor.attribute(images)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(attributor.attribute(images), first)
    with torch.no_grad():
        tensors = [net[:2](images).relu(), net(images).relu()]
    expected = independent_map(tensors, [1, 2], (64, 96))
    torch.testing.assert_close(first[:, 0].double(), expected, rtol=0, atol=2e-5)


def test_channels_last_layers(images):
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).contiguous()

    first = small_network()
    last = nn.Sequential(first[0], first[1], first[2], Last())
    expected = SMOEScale(first, first[2]).attribute(images)
    torch.testing.assert_close(SMOEScale(last, last[3]).attribute(images), expected)
    memory = images.contiguous(memory_format=torch.channels_last)
    model = small_network().to(memory_format=torch.channels_last)
    attribution = SMOEScale(model).attribute(memory)
    # Convolutions of either layout round differently on some processors.
    torch.testing.assert_close(attribution, SMOEScale(first).attribute(images), rtol=0, atol=2e-4)


@pytest.mark.parametrize("value", [0.0, 0.5, 1e6])
def test_a_constant_image_gives_no_nan(resnet, value):
    attribution = SMOEScale(resnet).attribute(torch.full((2, 3, 64, 64), value))
    assert attribution.isfinite().all()


def test_dead_layers_give_one_half(images):
    net = small_network()
    nn.init.constant_(net[4].bias, -1e3)
    maps = SMOEScale(net).maps(images)
    assert torch.equal(maps.per_scale[1], torch.full((3, 32, 48), 0.5))


def test_values_that_are_not_finite_are_an_error(images):
    images[1, 0, 5, 5] = float("nan")
    with pytest.raises(ValueError, match="layer '2' gives activations that are not finite"):
        SMOEScale(small_network()).attribute(images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(images, dtype):
    expected = SMOEScale(small_network()).attribute(images)
    attribution = SMOEScale(small_network().to(dtype)).attribute(images.to(dtype))
    assert attribution.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (attribution - expected).abs().mean()
    assert error < {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-6}[dtype]


class TwoInputs(nn.Module):
    """An image and a vector; the output is a dictionary."""

    def __init__(self):
        super().__init__()
        self.net = small_network()
        self.mix = nn.Linear(2, 5)

    def forward(self, image, vector, factor=1.0):
        return {"logits": factor * (self.net(image) + self.mix(vector))}


def test_two_inputs_and_a_dictionary(images):
    model = TwoInputs()
    vector = torch.ones(3, 2)
    with pytest.warns(UserWarning, match=r"input of shape \(3, 2\) is no image batch"):
        attributions = SMOEScale(model).attribute(
            (images, vector), target=1, additional_forward_args=2.0
        )
    assert isinstance(attributions, tuple)
    assert attributions[1].shape == (0,)
    assert torch.equal(attributions[0], SMOEScale(model.net).attribute(images))
    logits = SMOEScale(model).maps((images, vector)).logits["logits"]
    assert torch.equal(logits, model(images, vector)["logits"])


def test_tuple_in_tuple_out_and_one_channel(resnet, images):
    attributor = SMOEScale(resnet)
    single = attributor.attribute(images)
    (tupled,) = attributor.attribute((images,))
    assert torch.equal(single, tupled)
    assert single.is_contiguous()
    narrow = attributor.attribute(images, expand_channels=False)
    assert narrow.shape == (3, 1, 64, 96)
    assert torch.equal(narrow.expand_as(single), single)


def test_another_statistic_and_no_normalisation(images):
    net = small_network()
    raw = SMOEScale(net, net[5], statistic="mean", normalize="none").maps(images)
    with torch.no_grad():
        torch.testing.assert_close(raw.per_scale[0], net[:6](images).mean(1))
    own = Statistic("sum", "a test", "post_relu", lambda activations: activations.sum(1))
    summed = SMOEScale(net, net[5], statistic=own, normalize="none").maps(images)
    torch.testing.assert_close(summed.per_scale[0], raw.per_scale[0] * 16)
    of_function = SMOEScale(net, net[5], statistic=lambda a: a.sum(1), normalize="none")
    assert torch.equal(
        of_function.attribute(images),
        SMOEScale(net, net[5], statistic=own, normalize="none").attribute(images),
    )
    with pytest.raises(ValueError, match=r"statistic 'relu' gave \(3, 16, 32, 48\) for"):
        SMOEScale(net, net[5], statistic=F.relu).attribute(images)
    minmax = SMOEScale(net, net[5], normalize="minmax").maps(images).per_scale[0]
    with torch.no_grad():
        phi = smoe_scale(net[:6](images))
    low, high = phi.amin((1, 2), keepdim=True), phi.amax((1, 2), keepdim=True)
    torch.testing.assert_close(minmax, (phi - low) / (high - low))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_shared_over_a_batch_images_compare(resnet, images, name):
    images *= torch.tensor([0.2, 1.0, 3.0])[:, None, None, None]
    raw = SMOEScale(resnet, RESNET, normalize="none").maps(images)
    options = {"normalize": name, "normalize_over": "batch"}
    shared = SMOEScale(resnet, RESNET, **options).maps(images)
    for values, squashed in zip(raw.per_scale, shared.per_scale, strict=True):
        # One tall map of all images, by the function itself.
        expected = NORMALIZATIONS[name](torch.cat(list(values), 0)[None])
        torch.testing.assert_close(torch.cat(list(squashed), 0)[None], expected)
        order = values.flatten().argsort()
        # Rounding alone may turn two neighbours round: the incomplete gamma function is computed
        # by several formulas.
        assert (squashed.flatten()[order].diff() >= -2 * torch.finfo(torch.float32).eps).all()
    by_itself = SMOEScale(resnet, RESNET, **options)
    one = torch.cat([by_itself.attribute(image[None]) for image in images])
    expected = SMOEScale(resnet, RESNET, normalize=name).attribute(images)
    torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)
    if name != "none":
        # A dim image's maps are dim beside brighter ones, and not by themselves.
        means = shared.combined.mean((1, 2))
        assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("name", STATISTICS)
def test_every_statistic_makes_maps(resnet, images, name):
    """Includes a dead layer, a black image, and constant columns."""
    images[1] = 0
    maps = SMOEScale(resnet, statistic=name).maps(images)
    assert maps.combined.isfinite().all()
    for scale_map in maps.per_scale[:4]:
        # The map is not constant.
        assert (scale_map[0].std() > 0.1) & (scale_map[2].std() > 0.1)


def test_statistics_before_the_relu_see_negative_values(images):
    lowest = Statistic("lowest", "a test", "pre_relu", lambda activations: activations.amin(1))
    net = small_network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = SMOEScale(net, net[4], statistic=lowest, normalize="none").maps(images)
    with torch.no_grad():
        torch.testing.assert_close(maps.per_scale[0], net[:5](images).amin(1))


def test_weights():
    assert layer_weights("linear", 3) == (1, 2, 3)
    assert layer_weights("equal", 2) == (1, 1)
    assert layer_weights("prior", 5) == (0.18, 0.15, 0.37, 0.4, 0.72)
    assert layer_weights("prior", 3) == (0.37, 0.4, 0.72)
    with pytest.raises(ValueError, match=r"'prior' has 5 numbers.*there are 6 layers"):
        layer_weights("prior", 6)
    with pytest.raises(ValueError, match="unknown weights 'squared'"):
        layer_weights("squared", 6)
    with pytest.raises(ValueError, match=r"expected 3 weights.*got \(1.0, 2.0\)"):
        layer_weights([1, 2], 3)
    for numbers in ([1, -1], [0, 0], [1, float("nan")]):
        with pytest.raises(ValueError, match="finite, not negative and not all 0"):
            layer_weights(numbers, 2)


def test_combine_matches_a_plain_sum():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, side, side, generator=generator) for side in (8, 4, 1)]
    weights = (0.2, 0.0, 3.0)
    up = [F.interpolate(m[:, None], (16, 16), mode="bilinear")[:, 0] for m in maps]
    expected = sum(w * m for w, m in zip(weights, up, strict=True)) / 3.2
    torch.testing.assert_close(combine(maps, weights, (16, 16)), expected)


def test_errors(resnet, images):
    with pytest.raises(ValueError, match="give the layers yourself"):
        SMOEScale(lambda x: resnet(x))
    with pytest.raises(ValueError, match="unknown statistic 'smoe'"):
        SMOEScale(resnet, statistic="smoe")
    with pytest.raises(ValueError, match="unknown normalization 'beta'"):
        SMOEScale(resnet, normalize="beta")
    with pytest.raises(ValueError, match="normalize_over is 'image' or 'batch', got 'all'"):
        SMOEScale(resnet, normalize_over="all")
    with pytest.raises(ValueError, match="expected 2 weights"):
        SMOEScale(resnet, ["relu", "layer1"], weights=[1, 2, 3])
    with pytest.raises(ValueError, match="expected 5 weights"):
        SMOEScale(resnet, weights=[1, 2]).attribute(images)
    with pytest.raises(ValueError, match=r"layer 'fc' gives a tensor of shape \(3, 1000\)"):
        SMOEScale(resnet, "fc").attribute(images)
    with pytest.raises(TypeError, match=r"for each image, got \[\(3, 3, 64, 96\)\]"):
        SMOEScale(resnet).attribute([images])
    with pytest.raises(NotImplementedError):
        SMOEScale(resnet).attribute_future()
    unused = nn.ModuleDict({"net": small_network(), "spare": nn.ReLU()})
    with pytest.raises(ValueError, match="layer 'ReLU' did not run"):
        SMOEScale(lambda x: unused["net"](x), unused["spare"]).attribute(images)


@pytest.mark.parametrize("over", ["image", "batch"])
def test_a_statistic_that_gives_a_part_of_the_activations(over):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), Negated())
    images = torch.rand(1, 3, 9, 9)

    def channel(activations):
        return activations[:, 1]

    attributor = SMOEScale(net, ["1"], statistic=channel, normalize_over=over)
    maps = attributor.maps(images)
    with torch.no_grad():
        given = torch.sigmoid(net[0](images))[:, 1]
        assert torch.equal(maps.logits[:, 1], -given)
    deviation, mean = torch.std_mean(given)
    torch.testing.assert_close(maps.per_scale[0], torch.special.ndtr((given - mean) / deviation))


class Negated(nn.Module):
    """Overwrites its input."""

    def forward(self, x):
        return x.neg_()


class Mirrored(nn.Module):
    """Turns its input left to right."""

    def forward(self, x):
        return x.flip(3)


def test_a_layer_that_gets_other_channels_lies_where_it_lay():
    torch.manual_seed(0)
    net = nn.Sequential(Mirrored(), nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()))
    images = torch.rand(2, 3, 12, 10)
    attributor = SMOEScale(net, net[1])
    attributor.attribute(images)
    net[1][0] = nn.Conv2d(3, 4, 3, padding=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = attributor.maps(images)
    assert maps.scales[0].shape == (2, 4, 12, 10)
    torch.testing.assert_close(maps.combined, maps.per_scale[0].flip(2))
    torch.testing.assert_close(maps.combined, SMOEScale(net, net[1]).maps(images).combined)
