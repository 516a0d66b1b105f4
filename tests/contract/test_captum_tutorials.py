"""Two of Captum's tutorials, run unchanged with GuidedGradCam and with FastCAM.

The first follows the CIFAR tutorial: a small network, one function that calls any algorithm, noise,
figures. The second follows the one on segmentation: a wrapper sums each class over the pixels that
have it, so that a class has one score. Every flow is one function of the class.
"""

import matplotlib as mpl
import numpy as np
import pytest
import torch
import torchvision
from captum.attr import GuidedGradCam, LayerGradCam, NoiseTunnel, visualization
from torch import nn
from torchvision.models.segmentation import fcn_resnet50

from fastsal import FastCAM, SMOEScale

mpl.use("Agg")
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks:UserWarning"),
]
BOTH = pytest.mark.parametrize("method", [GuidedGradCam, FastCAM])


class Classifier(nn.Module):
    """Two convolutions and three linear layers, for images of 32 x 32."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.relu3 = nn.Linear(400, 60), nn.ReLU()
        self.fc2 = nn.Linear(60, 10)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x.flatten(1))))


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Classifier().eval()


@pytest.fixture
def batch():
    """Four images as a normalising loader gives them, and their labels."""
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return images, torch.tensor([3, 8, 8, 0])


def classification_flow(method, net, images, labels):
    """The predictions, one image's attributions three ways, and the figures of them."""
    predicted = net(images).argmax(1)
    which = 3
    image = images[which].unsqueeze(0)
    image.requires_grad = True

    def attribute_image_features(algorithm, image, **options):
        net.zero_grad()
        return algorithm.attribute(image, target=labels[which], **options)

    algorithm = method(net, net.conv2)
    plain = attribute_image_features(algorithm, image)
    resized = attribute_image_features(algorithm, image, interpolate_mode="bilinear")
    torch.manual_seed(0)
    smooth = attribute_image_features(
        NoiseTunnel(algorithm), image, nt_type="smoothgrad_sq", nt_samples=8, stdevs=0.2
    )
    original = np.transpose((images[which].numpy() / 2) + 0.5, (1, 2, 0))
    shown = {
        name: np.transpose(attribution.squeeze(0).cpu().detach().numpy(), (1, 2, 0))
        for name, attribution in {"plain": plain, "resized": resized, "smooth": smooth}.items()
    }
    figures = [
        visualization.visualize_image_attr(
            attributions,
            original,
            method="blended_heat_map",
            sign="all",
            show_colorbar=True,
            title=name,
            use_pyplot=False,
        )
        for name, attributions in shown.items()
    ]
    return {
        "predicted": predicted,
        "plain": plain,
        "resized": resized,
        "smooth": smooth,
        "figures": figures,
    }


@BOTH
def test_the_classification_flow(classifier, batch, method):
    images, labels = batch
    with torch.random.fork_rng():
        results = classification_flow(method, classifier, images, labels)
    for name in ("plain", "resized", "smooth"):
        assert results[name].shape == (1, 3, 32, 32)
        assert results[name].isfinite().all()
    assert len(results["figures"]) == 3
    for figure, axes in results["figures"]:
        # The picture, the map over it, and a bar beside it.
        assert [image.get_array().shape[:2] for image in axes.images] == [(32, 32)] * 2
        assert len(figure.axes) == 2


def laid(maps):
    """Maps of conv2 on the pixels: it has no padding, so its first location is at row 7, not 1.6.

    A location sees 14 pixels (5, 2 * 5 - 1 by the pooling), each 2 pixels from the next.
    """
    centres, pixels = 7 + 2 * np.arange(10), np.arange(32) + 0.5
    to_pixels = np.stack([np.interp(pixels, centres, row) for row in np.eye(10)], 1)
    to_pixels = torch.from_numpy(to_pixels).float()
    return to_pixels @ maps @ to_pixels.T


def test_the_classification_flow_gives_the_product(classifier, batch):
    """Fast-CAM in the tutorial equals the two maps, multiplied by hand."""
    images, labels = batch
    with torch.random.fork_rng():
        results = classification_flow(FastCAM, classifier, images, labels)

    def product(image, target):
        cam = LayerGradCam(classifier, classifier.conv2).attribute(
            image, target, relu_attributions=True
        )
        cam = (cam / cam.amax((2, 3), keepdim=True)).detach()
        return laid(cam) * SMOEScale(classifier).attribute(image)

    image, label = images[3:], labels[3]
    torch.testing.assert_close(results["resized"], product(image, label), rtol=0, atol=1e-5)
    assert torch.equal(results["plain"], results["resized"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        noisy = torch.normal(image.repeat_interleave(8, 0), 0.2)
    squares = product(noisy, label).square().mean(0, keepdim=True)
    torch.testing.assert_close(results["smooth"], squares, rtol=0, atol=1e-5)


class PixelsOfAClass(nn.Module):
    """Sums each class's score over the pixels where that class wins."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        scores = self.net(images)["out"]
        winners = torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1)
        return (scores * winners).sum((2, 3))


@pytest.fixture(scope="module")
def segmenter():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fcn_resnet50(weights=None, weights_backbone=None, num_classes=6).eval()


def segmentation_flow(method, net, photograph):
    """The classes seen, and for the two largest the attribution by the backbone's last block."""
    normalised = torchvision.transforms.functional.normalize(
        photograph, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )[None]
    with torch.no_grad():
        classes = net(normalised)["out"].argmax(1)
    largest = classes.flatten().bincount(minlength=6).topk(2).indices
    wrapped = PixelsOfAClass(net)
    algorithm = method(wrapped, net.backbone.layer4[-1])
    maps = [algorithm.attribute(normalised, target=target) for target in largest]
    both = algorithm.attribute(normalised.repeat(2, 1, 1, 1), target=largest)
    (inside,) = algorithm.attribute((normalised,), target=largest[0].item())
    figure, _ = visualization.visualize_image_attr(
        maps[0][0].detach().permute(1, 2, 0).numpy(),
        photograph.permute(1, 2, 0).numpy(),
        method="masked_image",
        sign="positive",
        use_pyplot=False,
    )
    return {
        "classes": largest,
        "maps": maps,
        "both": both,
        "inside": inside,
        "figure": figure,
        "normalised": normalised,
    }


@pytest.fixture
def photograph():
    rows = torch.linspace(0, 1, 64)[:, None]
    columns = torch.linspace(0, 1, 96)
    noise = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(2))
    disc = ((rows - 0.5) ** 2 + (columns - 0.3) ** 2 < 0.04).float()
    return 0.6 * disc + 0.4 * noise


@BOTH
def test_the_segmentation_flow(segmenter, photograph, method):
    results = segmentation_flow(method, segmenter, photograph)
    assert results["classes"].unique().numel() == 2
    for attribution in results["maps"]:
        assert attribution.shape == (1, 3, 64, 96)
        assert attribution.isfinite().all()
        assert (attribution != 0).any()
    # A batch with a class each, and a tuple, are the same maps.
    tolerance = 1e-4 * results["both"].abs().max().item()
    stacked = torch.cat(results["maps"])
    torch.testing.assert_close(results["both"], stacked, rtol=0, atol=tolerance)
    torch.testing.assert_close(results["inside"], results["maps"][0], rtol=0, atol=tolerance)
    assert len(results["figure"].axes[0].images) == 1


@pytest.mark.slow
def test_the_segmentation_flow_gives_the_product(segmenter, photograph):
    results = segmentation_flow(FastCAM, segmenter, photograph)
    wrapped, normalised = PixelsOfAClass(segmenter), results["normalised"]
    smoe = SMOEScale(wrapped).attribute(normalised)
    for attribution, target in zip(results["maps"], results["classes"], strict=True):
        cam = LayerGradCam(wrapped, segmenter.backbone.layer4[-1]).attribute(
            normalised, target, relu_attributions=True
        )
        cam = (cam / cam.max()).detach()
        expected = nn.functional.interpolate(cam, (64, 96), mode="bilinear") * smoe
        torch.testing.assert_close(attribution, expected, rtol=0, atol=1e-4)
