"""Whole methods beside the plain forward pass: fastsal's, Captum's and the peers'."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comparisons.budget import MEMORY_BUDGET_MIB, set_memory_budget
from comparisons.methods import METHODS, Batch
from comparisons.methods.costed import COST_ONLY, costed, installed
from evaluation.networks.build import build_network

FORWARD = "forward pass"
# More passes an image are a matter of arithmetic.
NAMES = [
    name
    for name, entry in {**METHODS, **COST_ONLY}.items()
    if not entry.needs_object_mask and entry.passes <= 15
]
_NETWORKS: dict[str, nn.Module] = {}


@pytest.fixture(autouse=True)
def _room_for_every_batch():
    set_memory_budget(4096)
    yield
    set_memory_budget(MEMORY_BUDGET_MIB)


def network(name: str, size: int) -> nn.Module:
    if name not in _NETWORKS:
        _NETWORKS[name] = build_network(name, 10, 0, size=(size, size)).eval()
    return _NETWORKS[name]


def batch(images: int, size: int) -> Batch:
    inputs = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    target = torch.ones(images, dtype=torch.int64)
    return Batch(inputs, target, torch.arange(images), 1.0, (0.0, 0.0, 0.0))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("images", [1, 8])
@pytest.mark.parametrize("name", [FORWARD, *NAMES])
def test_methods(measure, timed, name, images):
    if name != FORWARD and not installed(name):
        pytest.skip("its package is not installed: pip install -e '.[peers]'")
    model, size = ("resnet50", 224) if timed else ("resnet9", 16)
    if not timed:
        images = min(images, 2)
    net, example = network(model, size), batch(images, size)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return net(example.inputs)

    if name == FORWARD:
        work = forward
    else:
        explain = costed()[name].prepare(net)
        explain(example)

        def work() -> torch.Tensor:
            return explain(example)

    passes = 1 if name == FORWARD else costed()[name].passes
    result = measure(
        f"maps, {model}, {size} x {size}, {images} at once",
        work,
        rounds=15 if passes <= 2 else 3,
        images=images,
    )
    assert len(result) == images


@pytest.mark.parametrize("size", [112, 224, 448])
@pytest.mark.parametrize("name", [FORWARD, "smoe-linear", "fastcam"])
def test_methods_by_size(measure, timed, name, size):
    model, side = ("resnet50", size) if timed else ("resnet9", size // 7)
    net, example = network(model, side), batch(1, side)
    if name == FORWARD:

        def work() -> torch.Tensor:
            with torch.inference_mode():
                return net(example.inputs)
    else:
        explain = METHODS[name].prepare(net)
        explain(example)

        def work() -> torch.Tensor:
            return explain(example)

    assert len(measure(f"maps by size, {model}, {name}", work, rounds=7)) == 1
