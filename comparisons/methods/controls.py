"""Controls: maps that ignore the network, which a useful method has to beat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from comparisons.methods.base import Batch, Explain
from comparisons.methods.blobs import arrival_times
from comparisons.methods.registry import method

_RANDOM_MAP_SEED = 0x5EED
_BLOB_SEED = 0xB10B


def _draws(batch: Batch, seed: int) -> Iterator[np.random.Generator]:
    """Yield a generator for each image, seeded by the image's index alone."""
    for index in batch.index:
        yield np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, int(index)])))


def _uniform(batch: Batch, size: tuple[int, ...]) -> Tensor:
    draws = [draw.random(size) for draw in _draws(batch, _RANDOM_MAP_SEED)]
    return torch.from_numpy(np.stack(draws))


def _random_channels(model: nn.Module) -> Explain:
    del model
    return lambda batch: _uniform(batch, tuple(batch.inputs.shape[1:]))


@method(
    "random",
    "Random",
    "control",
    "Hooker et al. 2018",
    {},
    self_dual=True,
    by_channel=_random_channels,
)
def _random(model: nn.Module) -> Explain:
    del model
    return lambda batch: _uniform(batch, tuple(batch.inputs.shape[2:]))


@method(
    "random-blobs",
    "Random blobs",
    "control",
    "a region that grows from a random pixel; Eden 1961, Hammersley and Welsh 1965",
    {"step": "exponential"},
    axes=(2,),
)
def _random_blobs(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        height, width = batch.inputs.shape[2:]
        draws = _draws(batch, _BLOB_SEED)
        return torch.from_numpy(np.stack([-arrival_times(height, width, draw) for draw in draws]))

    return explain


@method("centre", "Centre disk", "control", "a disk that never looks at the image", {})
def _centre(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        n, _, *grid = batch.inputs.shape
        axes = [torch.arange(side) - (side - 1) / 2 for side in grid]
        squares = [axis**2 for axis in torch.meshgrid(*axes, indexing="ij")]
        return -torch.stack(squares).sum(0).sqrt().expand(n, *grid)

    return explain


@method(
    "sobel",
    "Sobel edges",
    "control",
    "Sobel and Feldman 1968",
    {"reduction": "sq_sum"},
    axes=(2,),
)
def _sobel(model: nn.Module) -> Explain:
    del model
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None]

    def explain(batch: Batch) -> Tensor:
        n, channels, height, width = batch.inputs.shape
        padded = F.pad(batch.inputs, (1, 1, 1, 1), mode="replicate")
        planes = padded.reshape(n * channels, 1, height + 2, width + 2)
        edges = F.conv2d(planes, kernels.to(planes))
        return edges.square().reshape(n, channels * 2, height, width).sum(1)

    return explain


@method("oracle", "True object", "control", "the generator's own mask", {}, needs_object_mask=True)
def _oracle(model: nn.Module) -> Explain:
    del model

    def explain(batch: Batch) -> Tensor:
        if batch.object_mask is None:
            raise ValueError("oracle needs the true object's pixels: batch.object_mask is None")
        return batch.object_mask.float()

    return explain
