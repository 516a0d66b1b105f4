"""Trainings of one process share what `torch.compile` made of the first."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import fx

from evaluation.masking.levels import Masking
from evaluation.masking.resident import Residence
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.training.recipe import Recipe
from evaluation.training.retraining import train

pytestmark = pytest.mark.training

N, SIZE = 40, 16
IMAGE = (3, SIZE, SIZE)
PLAIN = (0.5,) * 3, (0.25,) * 3
OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.norm(self.convolution(x)).relu().mean((2, 3)))
"""


@pytest.fixture
def compiled_shapes(monkeypatch):
    """The shapes of the images of each graph that is compiled, by a backend that takes no time."""
    torch._dynamo.reset()
    shapes: list[tuple[int, ...]] = []

    def backend(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        shapes.extend(found for each in inputs if (found := tuple(each.shape))[1:] == IMAGE)
        return graph.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(compiled, backend=backend))
    yield shapes
    torch._dynamo.reset()


@pytest.mark.parametrize("own", [False, True])
def test_a_second_training_compiles_nothing(compiled_shapes, tmp_path, own):
    if own:
        (tmp_path / "own.py").write_text(OWN)
    name = f"{tmp_path / 'own.py'}:Own" if own else "fastnet"
    images = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    levels = np.random.default_rng(1).integers(0, 2, (N, SIZE, SIZE), dtype=np.uint8)
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.01, compile=True)
    masked = (
        InputView(images, *PLAIN, levels, Masking(mode, 0.5, (0.5,))) for mode in ("roar", "kar")
    )
    views = InputView(images, *PLAIN), *Residence("cpu").views(*masked)
    ends = []
    for seed, view in enumerate(views):
        network = build_network(name, 4, seed, size=(SIZE, SIZE))
        ends.append(train(network, view, np.arange(N) % 4, recipe, seed).model_hash)
        # Whole batches, and the last one of an epoch, which does not make the others' dynamic.
        assert compiled_shapes == [(16, *IMAGE), (8, *IMAGE)]
    assert len(set(ends)) == 3
    plain = build_network(name, 4, 2, size=(SIZE, SIZE))
    eager = Recipe(epochs=2, batch_size=16, learning_rate=0.01)
    assert train(plain, views[2], np.arange(N) % 4, eager, 2).model_hash == ends[2]
