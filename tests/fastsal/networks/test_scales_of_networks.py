"""The scales of well-known networks, each list checked against the network's definition.

By the paper's rule a scale is the last tensor before the next downsampling, after its ReLU. What
that means in each family:

- ResNet, RegNet, GoogLeNet, ShuffleNet: the output of the last block at each resolution.
- VGG, AlexNet, Inception's stem: the ReLU before each pooling.
- DenseNet: the ReLU before each transition's convolution, which rectifies the whole dense block.
- Inverted residuals (MobileNet, EfficientNet, MNASNet): blocks end in a linear bottleneck, so the
  last activation at a resolution is the expansion that the next strided convolution reads.
- ConvNeXt and Swin have no activation between blocks: the last block's sum, signed.
- SqueezeNet rectifies its class maps, which pooling follows: they are its last tensor.
- FCN's last tensor at stride 8 is its head's ReLU (its backbone is dilated from there on).
"""

import gc

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import nn

from fastsal import SMOEScale, find_scales
from fastsal.networks.by_name import build_network

pytestmark = pytest.mark.heavy

SIGNED, NHWC = "signed", "NHWC"
RECTIFIED = "rectified by a function"


def resnet(*channels, prefix=""):
    names = ("relu", "layer1", "layer2", "layer3", "layer4")
    return [
        (prefix + name, 2 << k, number)
        for k, (name, number) in enumerate(zip(names, channels, strict=True))
    ]


BOTTLENECKS = resnet(64, 256, 512, 1024, 2048)
# For each network: side of the images, then for each scale: layer, stride, channels, and flags.
NETWORKS = {
    "resnet18": (64, resnet(64, 64, 128, 256, 512)),
    "resnet50": (64, BOTTLENECKS),
    "resnext50_32x4d": (64, BOTTLENECKS),
    "wide_resnet50_2": (64, BOTTLENECKS),
    "alexnet": (
        96,
        [("features.1", 4, 64), ("features.4", 8, 192), ("features.11", 16, 256)],
    ),
    "vgg16": (
        64,
        [
            ("features.3", 1, 64),
            ("features.8", 2, 128),
            ("features.15", 4, 256),
            ("features.22", 8, 512),
            ("features.29", 16, 512),
        ],
    ),
    "vgg16_bn": (
        64,
        [
            ("features.5", 1, 64),
            ("features.12", 2, 128),
            ("features.22", 4, 256),
            ("features.32", 8, 512),
            ("features.42", 16, 512),
        ],
    ),
    "densenet121": (
        64,
        [
            ("features.relu0", 2, 64),
            ("features.transition1.relu", 4, 256),
            ("features.transition2.relu", 8, 512),
            ("features.transition3.relu", 16, 1024),
            ("features", 32, 1024, RECTIFIED),
        ],
    ),
    "googlenet": (
        64,
        [
            ("conv1", 2, 64),
            ("conv3", 4, 192),
            ("inception3b", 8, 480),
            ("inception4e", 16, 832),
            ("inception5b", 32, 1024),
        ],
    ),
    "inception_v3": (
        160,
        [
            ("Conv2d_2b_3x3", 2, 64),
            ("Conv2d_4a_3x3", 4, 192),
            ("Mixed_5d", 8, 288),
            ("Mixed_6e", 16, 768),
            ("Mixed_7c", 32, 2048),
        ],
    ),
    "squeezenet1_1": (
        96,
        [
            ("features.1", 2, 64),
            ("features.4", 4, 128),
            ("features.7", 8, 256),
            ("classifier.2", 16, 1000),
        ],
    ),
    "shufflenet_v2_x1_0": (
        64,
        [("conv1", 2, 24), ("stage2", 8, 116), ("stage3", 16, 232), ("conv5", 32, 1024)],
    ),
    "mnasnet1_0": (
        64,
        [
            ("layers.8.0.layers.2", 2, 48),
            ("layers.9.0.layers.2", 4, 72),
            ("layers.10.0.layers.2", 8, 240),
            ("layers.12.0.layers.2", 16, 576),
            ("layers", 32, 1280),
        ],
    ),
    "mobilenet_v2": (
        64,
        [
            ("features.2.conv.0", 2, 96),
            ("features.4.conv.0", 4, 144),
            ("features.7.conv.0", 8, 192),
            ("features.14.conv.0", 16, 576),
            ("features", 32, 1280),
        ],
    ),
    "mobilenet_v3_large": (
        64,
        [
            ("features.2.block.0", 2, 64),
            ("features.4.block.0", 4, 72),
            ("features.7.block.0", 8, 240, SIGNED),
            ("features.13.block.0", 16, 672, SIGNED),
            ("features", 32, 960, SIGNED),
        ],
    ),
    "efficientnet_b0": (
        64,
        [
            ("features.2.0.block.0", 2, 96, SIGNED),
            ("features.3.0.block.0", 4, 144, SIGNED),
            ("features.4.0.block.0", 8, 240, SIGNED),
            ("features.6.0.block.0", 16, 672, SIGNED),
            ("features", 32, 1280, SIGNED),
        ],
    ),
    "efficientnet_v2_s": (
        64,
        [
            ("features.1", 2, 24, SIGNED),
            ("features.2", 4, 48, SIGNED),
            ("features.4.0.block.0", 8, 256, SIGNED),
            ("features.6.0.block.0", 16, 960, SIGNED),
            ("features", 32, 1280, SIGNED),
        ],
    ),
    "regnet_y_400mf": (
        64,
        [
            ("stem", 2, 32),
            ("trunk_output.block1", 4, 48),
            ("trunk_output.block2", 8, 104),
            ("trunk_output.block3", 16, 208),
            ("trunk_output", 32, 440),
        ],
    ),
    "convnext_tiny": (
        64,
        [
            ("features.1", 4, 96, SIGNED),
            ("features.3", 8, 192, SIGNED),
            ("features.5", 16, 384, SIGNED),
            ("features", 32, 768, SIGNED),
        ],
    ),
    "swin_t": (
        64,
        [
            ("features.1", 4, 96, SIGNED, NHWC),
            ("features.3", 8, 192, SIGNED, NHWC),
            ("features.5", 16, 384, SIGNED, NHWC),
            ("features", 32, 768, SIGNED, NHWC),
        ],
    ),
    # It pads before its strided convolutions, as TensorFlow does.
    "timm:tf_efficientnet_lite0": (
        64,
        [
            ("blocks.1.0.bn1", 2, 96),
            ("blocks.2.0.bn1", 4, 144),
            ("blocks.3.0.bn1", 8, 240),
            ("blocks.5.0.bn1", 16, 672),
            ("bn2", 32, 1280),
        ],
    ),
    "fcn_resnet50": (
        64,
        [("backbone.relu", 2, 64), ("backbone.layer1", 4, 256), ("classifier.2", 8, 512)],
    ),
    "lraspp_mobilenet_v3_large": (
        64,
        [
            ("backbone.2.block.0", 2, 64),
            ("backbone.4.block.0", 4, 72),
            ("backbone.7.block.0", 8, 240, SIGNED),
            ("backbone.16", 16, 960, SIGNED),
        ],
    ),
}


def described(scales):
    rows = []
    for scale in scales:
        channels = scale.shape[-1 if scale.channels_last else 1]
        notes = {
            SIGNED: scale.signed,
            NHWC: scale.channels_last,
            RECTIFIED: scale.functional_relu,
        }
        row = (scale.name, scale.stride, channels, *(note for note, true in notes.items() if true))
        rows.append(row)
        assert scale.call == 0
        assert not scale.layer_input
    return rows


@pytest.fixture(scope="module", params=NETWORKS)
def row(request):
    """A network with random weights, and its expected scales."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(request.param).eval()
    yield request.param, network, *NETWORKS[request.param]
    del network
    gc.collect()


def images(height, width, seed=0):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_scales_of(row):
    _, network, side, expected = row
    assert described(find_scales(network, images(side, side))) == expected


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_maps_of_two_sizes(row):
    _, network, side, expected = row
    smoe = SMOEScale(network)
    for height, width in ((side, side), (side, side + 32)):
        inputs = images(height, width, seed=width)
        attributions = smoe.attribute(inputs)
        assert attributions.shape == inputs.shape
        assert attributions.isfinite().all()
        spread = attributions.amax((2, 3)) - attributions.amin((2, 3))
        assert (spread > 0.1).all()
    assert [scale.name for scale in smoe.maps(inputs).scales] == [name for name, *_ in expected]


def test_other_weights_and_sizes_give_the_same(row):
    # Last of the three: the weights stay changed.
    _, network, side, expected = row
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.neg_()
    assert described(find_scales(network, images(side + 32, side, seed=1))) == expected


def recomputed(network, scales, inputs):
    """The paper's equations in float64, from tensors kept by plain hooks."""
    kept = {}

    def keep(name):
        def hook(module, args, output):
            kept.setdefault(name, []).append(output.clone())

        return hook

    handles = [scale.module.register_forward_hook(keep(scale.name)) for scale in scales]
    with torch.no_grad():
        network(inputs)
    for handle in handles:
        handle.remove()
    total, weights = 0, 0
    for weight, scale in enumerate(scales, start=1):
        tensor = kept[scale.name][scale.call].double()
        channels = -1 if scale.channels_last else 1
        if scale.linear:
            grid = (1, 2) if scale.channels_last else (2, 3)
            tensor = tensor - tensor.mean(grid, keepdim=True)
        tensor = tensor.relu() + 1e-6
        mean = tensor.mean(channels, keepdim=True)
        values = (mean * (mean / tensor).log2()).mean(channels)
        squashed = torch.stack(
            [torch.from_numpy(norm.cdf(v.numpy(), v.mean(), v.std(correction=1))) for v in values]
        )
        size = inputs.shape[2:]
        total = total + weight * F.interpolate(squashed[:, None], size, mode="bilinear")
        weights += weight
    return total / weights


@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "swin_t", "timm:tf_efficientnet_lite0"]
)
def test_maps_are_the_papers_from_plain_hooks(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name).eval()
    inputs = torch.cat([images(64, 96), images(64, 96, seed=1)])
    expected = recomputed(network, find_scales(network, inputs), inputs)
    found = SMOEScale(network).attribute(inputs)
    torch.testing.assert_close(found.double(), expected.expand(inputs.shape), atol=2e-4, rtol=0)


class ReusedFunctions(nn.Module):
    """Functional ReLUs and one convolution used twice, whose calls are told apart."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = F.relu(self.shared(F.relu(self.stem(x))))
        x = F.max_pool2d(x, 2)
        x = F.relu(self.norm(self.shared(x)), inplace=True)
        return x.mean((2, 3))


def test_reused_functional_relus():
    torch.manual_seed(0)
    network, inputs = ReusedFunctions().eval(), images(16, 24)
    scales = find_scales(network, inputs)
    assert [(s.name, s.call, s.stride, s.functional_relu) for s in scales] == [
        ("shared", 0, 1, True),
        ("norm", 0, 2, True),
    ]
    expected = recomputed(network, scales, inputs)
    found = SMOEScale(network).attribute(inputs)
    torch.testing.assert_close(found.double(), expected.expand(inputs.shape), atol=1e-4, rtol=0)


class TwoInputs(nn.Module):
    """A picture and a few numbers, joined after the last scale."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()
        )
        self.numbers = nn.Linear(4, 8)
        self.head = nn.Linear(16, 3)

    def forward(self, x, numbers):
        pooled = self.features(x).mean((2, 3))
        return {"scores": self.head(torch.cat([pooled, self.numbers(numbers)], 1)), "loss": None}


def test_two_inputs_and_a_dict_output():
    network = TwoInputs().eval()
    inputs = images(16, 16), torch.rand(1, 4)
    assert [s.name for s in find_scales(network, inputs)] == ["features.1", "features"]
    assert [s.name for s in find_scales(network, inputs[0], inputs[1])] == [
        "features.1",
        "features",
    ]
    alone = SMOEScale(network).attribute(inputs[0], additional_forward_args=inputs[1])
    with pytest.warns(UserWarning, match="no image batch"):
        both, nothing = SMOEScale(network).attribute(inputs)
    torch.testing.assert_close(both, alone, rtol=0, atol=0)
    assert nothing.numel() == 0
    assert both.std() > 0.01


class TwoPictures(nn.Module):
    """Two pictures of one size through one backbone, compared scale by scale."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.joined = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    def forward(self, one, other):
        return self.deep(self.joined(torch.cat([self.left(one), self.right(other)], 1))).mean(
            (2, 3)
        )


def test_two_pictures_are_read_where_they_have_met():
    scales = find_scales(TwoPictures(), (images(16, 16), images(16, 16, seed=1)))
    assert [scale.name for scale in scales] == ["joined", "deep"]
