"""Attribution beside a forward pass and Captum's gradient methods, on a small network.

Run with `pytest tests/speed --benchmark-enable`; compared in one group.
"""

import pytest
import torch
from captum.attr import GuidedGradCam, Saliency
from torch import nn

from fastsal import FastCAM, SMOEScale


def network():
    def stage(inputs, outputs):
        layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())

    torch.manual_seed(0)
    return nn.Sequential(
        stage(3, 16),
        nn.MaxPool2d(2),
        stage(16, 32),
        nn.MaxPool2d(2),
        stage(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


METHODS = {
    "forward": None,
    "SMOEScale": SMOEScale,
    "FastCAM": FastCAM,
    "Saliency": Saliency,
    "GuidedGradCam": lambda net: GuidedGradCam(net, net[4]),
}


@pytest.mark.filterwarnings("ignore:Input Tensor", "ignore:Setting backward hooks")
@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize("name", METHODS)
def test_speed(benchmark, name):
    net = network()
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    if METHODS[name] is None:

        def run():
            with torch.no_grad():
                return net(images)
    else:
        attributor = METHODS[name](net)

        def run():
            return attributor.attribute(images, target=1)

    run()
    result = benchmark(run)
    assert result.shape[0] == 16
