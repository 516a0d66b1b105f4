"""The trunk of networks with branches, against brute force and hand-made networks."""

import random
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import detection, segmentation

from fastsal import SMOEScale, find_scales
from fastsal.networks.trace import Node, Trace

pytestmark = pytest.mark.heavy

RESNET = ["relu", "layer1", "layer2", "layer3", "layer4"]


def images(height, width, number=1):
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0))


def names(network, inputs):
    return [scale.name for scale in find_scales(network, inputs)]


def block(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())


@pytest.mark.parametrize("seed", range(20))
def test_cuts_are_the_nodes_without_which_the_ends_are_out_of_reach(seed):
    draw = random.Random(seed)
    trace = Trace([torch.zeros(1, 3, 2, 2)])
    number = draw.randint(4, 12)
    for node in range(1, number):
        # Mostly the node before: else there would be few cuts.
        sources = {node - 1} if draw.random() < 0.8 else set()
        sources |= {draw.randrange(node) for _ in range(draw.choice((0, 0, 1)))}
        trace.nodes.append(Node("", tuple(sources) or (node - 1,)))
    ends = {number - 1} | ({draw.randrange(1, number)} if seed % 2 else set())

    def reachable(without):
        seen = {0}
        for node in range(1, number):
            if node != without and seen & set(trace.nodes[node].sources):
                seen.add(node)
        return seen

    assert trace.cuts(ends) == [n for n in range(1, number) if not ends & reachable(n)]


@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
def test_a_feature_pyramid_gives_its_backbone(size):
    pyramid = detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    output = pyramid.eval()(images(*size))
    assert list(output) == ["0", "1", "2", "3", "pool"]
    assert names(pyramid, images(*size)) == [f"body.{name}" for name in RESNET]
    assert SMOEScale(pyramid).attribute(images(*size)).std() > 0.01


def test_an_auxiliary_head_hides_nothing():
    network = segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)
    assert list(network.eval()(images(32, 48))) == ["out", "aux"]
    # As without it: the branch leaves after layer3, at the stride of the head's last tensor.
    assert names(network, images(32, 48)) == ["backbone.relu", "backbone.layer1", "classifier.2"]


class UNet(nn.Module):
    """Two stages down, a bottleneck, two stages up; without padding, as the first U-Net."""

    def __init__(self, padding=1):
        super().__init__()

        def double(inputs, outputs):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=padding),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding=padding),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )

        self.down1, self.down2 = double(3, 4), double(4, 8)
        self.bottleneck = double(8, 16)
        self.grow2, self.grow1 = nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)
        self.up2, self.up1 = double(16, 8), double(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottleneck(F.max_pool2d(second, 2))
        x = self.up2(self.joined(self.grow2(x), second))
        x = self.up1(self.joined(self.grow1(x), first))
        return self.head(x)

    @staticmethod
    def joined(x, skipped):
        rows, columns = x.shape[2:]
        return torch.cat([x, skipped[:, :, :rows, :columns]], 1)


@pytest.mark.parametrize(("padding", "size"), [(1, (32, 32)), (1, (64, 48)), (0, (92, 108))])
def test_a_unet_gives_its_encoder(padding, size):
    torch.manual_seed(0)
    network = UNet(padding).eval()
    scales = find_scales(network, images(*size))
    assert [(s.name, s.stride, s.signed) for s in scales] == [
        ("down1", 1, False),
        ("down2", 2, False),
        ("bottleneck", 4, False),
    ]
    attributor = SMOEScale(network)
    attributions = attributor.attribute(images(*size), target=(1, 5, 5))
    given = SMOEScale(network, ["down1", "down2", "bottleneck"]).attribute(images(*size))
    torch.testing.assert_close(attributions, given, rtol=0, atol=0)


class DownAgain(nn.Module):
    """Down, up with laterals, and down once more: the first descent is the trunk."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([block(3, 4), block(4, 4, 2), block(4, 4, 2)])
        self.again = nn.ModuleList([block(4, 4, 2), block(4, 4, 2)])

    def forward(self, x):
        first = self.down[0](x)
        second = self.down[1](first)
        third = self.down[2](second)
        second = second + F.interpolate(third, scale_factor=2)
        first = first + F.interpolate(second, scale_factor=2)
        second = second + self.again[0](first)
        return [first, second, third + self.again[1](second)]


def test_the_first_way_down_is_read():
    assert names(DownAgain(), images(16, 24)) == ["down.0", "down.1", "down.2"]


class CoarseKeys(nn.Module):
    """Attention whose keys are coarser than the last scale: they are no scale."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage = block(3, 8), block(8, 8, 2)
        self.reduce = nn.Conv2d(8, 8, 2, 2)
        self.last = block(8, 8)

    def forward(self, x):
        x = self.stage(self.stem(x))
        keys = self.reduce(x).flatten(2).transpose(1, 2)
        queries = x.flatten(2).transpose(1, 2)
        found = F.scaled_dot_product_attention(queries, keys, keys)
        products = (queries @ keys.transpose(1, 2)).softmax(-1) @ keys
        return self.last(x + (found + products).transpose(1, 2).reshape(x.shape)).mean((2, 3))


def test_what_is_read_through_attention_is_no_scale():
    assert names(CoarseKeys(), images(16, 24)) == ["stem", "last"]


class PooledContext(nn.Module):
    """Pooled to a fixed number of cells beside the trunk, as in PSPNet, and into the head."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage = block(3, 4), block(4, 4, 2)
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(2), block(4, 4))
        self.head = block(8, 2)

    def forward(self, x):
        x = self.stage(self.stem(x))
        context = F.interpolate(self.context(x), x.shape[2:])
        return F.interpolate(self.head(torch.cat([x, context], 1)), scale_factor=2)


def test_pooled_context_is_no_scale():
    assert names(PooledContext(), images(16, 16)) == ["stem", "head"]


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class ModelOutput(OrderedDict):
    """A mapping with attributes, as transformers has it."""

    def __getattr__(self, name):
        return self[name]


class Stages(nn.Module):
    """A classifier with a given output."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.stage1, self.stage2, self.stage3 = block(3, 4), block(4, 8, 2), block(8, 16, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        first = self.stage1(x)
        second = self.stage2(first)
        third = self.stage3(second)
        return self.form(first, second, third, logits=self.head(third.mean((2, 3))))


STAGES = ["stage1", "stage2", "stage3"]
FORMS = {
    "features": lambda *stages, logits: [*stages, logits],
    "logits and features": lambda *stages, logits: (logits, stages[1]),
    "features and logits": lambda *stages, logits: (stages[1], logits),
    "dict": lambda *stages, logits: {"hidden": [stages[0], None], "logits": logits},
    "dataclass": lambda *stages, logits: Output(None, logits, stages),
    "mapping": lambda *stages, logits: ModelOutput(logits=logits, hidden=stages),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_beside_the_scores_hide_nothing(form):
    network = Stages(FORMS[form])
    assert names(network, images(16, 24)) == STAGES
    plain = SMOEScale(Stages(FORMS["logits and features"]), STAGES)
    plain.forward_func.load_state_dict(network.state_dict())
    torch.testing.assert_close(
        SMOEScale(network).attribute(images(16, 24)), plain.attribute(images(16, 24))
    )


DETECTORS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": [
        *(f"backbone.body.{k}.block.0" for k in (2, 4, 7, 13)),
        "backbone.body.16",
    ],
    # Its own two levels beyond the backbone are scales too.
    "retinanet_resnet50_fpn": [
        *(f"backbone.body.{name}" for name in RESNET),
        *(f"backbone.fpn.extra_blocks.p{level}" for level in (6, 7)),
    ],
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.filterwarnings("ignore:layer.* give negative activations")
def test_a_detection_model_takes_a_batch(name):
    network = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, min_size=128, max_size=192
    )
    # It enlarges the images, and strides count from there.
    for inputs in (images(64, 96), images(64, 80, 2)):
        scales = find_scales(network, inputs)
        assert [scale.name for scale in scales] == DETECTORS[name]
        assert [scale.stride for scale in scales] == [2 << k for k in range(len(scales))]
    attributions = SMOEScale(network).attribute(inputs)
    assert attributions.shape == inputs.shape
    assert (attributions.std((1, 2, 3)) > 0.01).all()


def test_lists_of_images_are_refused():
    network = Stages(FORMS["features"])
    for inputs in ([images(8, 8)[0]], [images(8, 8)]):
        with pytest.raises(TypeError, match=r"got \['list'\].* as one batch \(N, C, H, W\)"):
            find_scales(network, inputs)


class Resized(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = Stages(FORMS["dict"])

    def forward(self, x):
        return self.stages(F.interpolate((x - 0.5) / 0.25, (32, 32)))


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((32, 32), [1, 2, 4]),
        ((64, 64), [2, 4, 8]),
        # Enlarged or squared: there is no one stride on the image, so it counts from 32x32.
        ((12, 12), [1, 2, 4]),
        ((32, 128), [1, 2, 4]),
    ],
)
def test_a_network_that_resizes_its_images(size, strides):
    network = Resized()
    scales = find_scales(network, images(*size))
    assert [(s.name, s.stride) for s in scales] == [
        (f"stages.{name}", stride) for name, stride in zip(STAGES, strides, strict=True)
    ]
    assert SMOEScale(network).attribute(images(*size)).shape[2:] == size


class GlobalContext(nn.Module):
    """A softmax over locations sums them into one context, which is added to all."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage = block(3, 4), block(4, 8, 2)
        self.weights, self.context = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stage(self.stem(x))
        weights = self.weights(x).flatten(2).softmax(2).transpose(1, 2)
        x = x + self.context((x.flatten(2) @ weights)[..., None])
        return x.relu().mean((2, 3))


def test_one_context_for_all_locations_is_no_scale():
    # The last tensor is the sum with the context, which functions make after it.
    assert names(GlobalContext(), images(16, 24)) == ["stem", "context"]


class EveryStagePooled(nn.Module):
    """Scores from every stage, pooled: not all paths cross the deep stages."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([block(3, 4), block(4, 4, 2), block(4, 4, 2)])
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x.mean((2, 3)))
        return self.head(torch.cat(pooled, 1))


def test_scores_from_every_stage():
    assert names(EveryStagePooled(), images(16, 24)) == ["stages.0", "stages.1", "stages.2"]


class TwoGrids(nn.Module):
    """The images at full and at half size: a smaller image is no scale."""

    def __init__(self):
        super().__init__()
        self.whole, self.small = block(3, 4, 4), block(3, 4, 4)

    def forward(self, x):
        whole = self.whole(x)
        return whole.mean((2, 3)) + self.small(F.interpolate(x, scale_factor=0.5)).mean((2, 3))


def test_a_smaller_image_is_no_scale():
    with pytest.warns(UserWarning, match=r"found 1 spatial scale.*Candidates: small.0"):
        find_scales(TwoGrids(), images(32, 32))
