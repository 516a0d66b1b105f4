"""PyTorch's default device and default type are the program's, and no result depends on them."""

import ast
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fastsal
from fastsal import FastCAM, GradCAM, SMOEScale, lovi, overlay, watch
from fastsal.cam.registry import CAMS
from fastsal.cli.options import random_image
from fastsal.export.model import with_fast_cam, with_map
from fastsal.export.onnx_check import unseen_inputs
from fastsal.statistics.registry import STATISTICS

PACKAGE = Path(fastsal.__file__).parent
# Functions that make a tensor on the default device, and of the default type.
MAKERS = frozenset(
    """arange as_tensor empty empty_strided eye full hann_window linspace logspace ones rand randint
    randn randperm scalar_tensor tensor zeros""".split()  # noqa: SIM905
)


@contextmanager
def default_device(device):
    before = torch.get_default_device()
    torch.set_default_device(device)
    try:
        yield
    finally:
        # A mode stays on the stack unless the device is taken back.
        torch.set_default_device(None)
        assert torch.get_default_device() == before


@contextmanager
def default_type(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# Of a tensor on "meta" nothing can be computed: it stands for one on another device than the model.
DEFAULTS = {
    "another device": partial(default_device, "meta"),
    "within a device": lambda: torch.device("meta"),
    "float64": partial(default_type, torch.float64),
    "float16": partial(default_type, torch.float16),
}


@pytest.fixture
def network(small_network):
    net = small_network()
    return nn.Sequential(*net[:7], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


def watched(network, images):
    with watch(network, 1) as w:
        network(images)
        network(images)
    return torch.cat([w.latest.picture().flatten(), w.latest.entropy])


CASES = {
    **{
        name: lambda net, x, name=name: SMOEScale(net, statistic=name).attribute(x)
        for name in STATISTICS
    },
    **{
        f"{name} over the {over}": lambda net, x, name=name, over=over: SMOEScale(
            net, normalize=name, normalize_over=over
        ).attribute(x)
        for name in ("gaussian", "gamma", "minmax", "none")
        for over in ("image", "batch")
    },
    "prior": lambda net, x: SMOEScale(net, weights="prior").attribute(x),
    "tiles": lambda net, x: SMOEScale(net, tile=(8, 8), overlap=2).attribute(x),
    **{cam: lambda net, x, cam=cam: FastCAM(net, cam=cam).attribute(x, 1) for cam in CAMS},
    **{
        method.__name__: lambda net, x, method=method: method(net, net[6]).attribute(x, 1)
        for method in (GradCAM, fastsal.GradCAMPlusPlus, fastsal.SmoothGradCAMPlusPlus)
    },
    "pictures": lambda net, x: overlay(x, SMOEScale(net).maps(x).combined),
    "LOVI": lambda net, x: lovi(SMOEScale(net).maps(x).stacked),
    "watch": watched,
    "with_map": lambda net, x: with_map(net, x, lovi=True)(x)[3],
    "with_fast_cam": lambda net, x: with_fast_cam(net, x, target=1)(x)[1],
    "a new input of an export": lambda _, x: next(unseen_inputs((x,), True, True))[0],
    "an image of the command": lambda _, __: random_image(8, 8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("case", CASES)
def test_the_same_whatever_the_defaults(network, small_images, case, default):
    with torch.no_grad():
        expected = CASES[case](network, small_images)
        with DEFAULTS[default]():
            found = CASES[case](network, small_images)
    assert (found.device, found.dtype) == (expected.device, expected.dtype)
    assert torch.equal(found, expected)


def test_the_package_loads_with_another_default():
    script = (
        "import torch\n"
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU())\n"
        "image = torch.ones(1, 3, 8, 8)\n"
        "torch.set_default_device('meta')\n"
        "import fastsal\n"
        "attributor = fastsal.SMOEScale(net)\n"
        "print([attributor.attribute(image).device.type for _ in range(2)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert done.stdout.strip() == "['cpu', 'cpu']"


def makers(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "torch" and node.func.attr in MAKERS:
                yield node


def test_every_tensor_that_is_made_names_its_device_and_type():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in makers(path):
            given = {keyword.arg for keyword in call.keywords}
            if not {"device", "dtype"} <= given:
                found.append(f"{path.relative_to(PACKAGE)}:{call.lineno}: torch.{call.func.attr}")
    assert found == []
