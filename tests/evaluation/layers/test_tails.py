"""Tails of networks against the whole network with a hook at the layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.layers.tails import TailError, read_scales, tail_of
from evaluation.networks.build import build_network
from fastsal import find_scales
from fastsal.networks.scales import Scale


class _ChannelsLast(nn.Module):
    """A network whose first scale is (N, H, W, C), as in Swin."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed, self.first = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)
        self.gelu = nn.GELU()
        self.down = nn.Conv2d(8, 16, 2, stride=2)
        self.relu, self.head = nn.ReLU(), nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.gelu(self.first(self.embed(x).permute(0, 2, 3, 1)))
        x = self.down(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.head(self.relu(x).mean((1, 2)))


def _network(name: str, size: int) -> tuple[nn.Module, torch.Tensor]:
    if name == "channels last":
        torch.manual_seed(0)
        network: nn.Module = _ChannelsLast(5)
    else:
        network = build_network(name, 5, 0, size=(size, size))
    network.eval()
    return network, torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "size"), [("resnet9", 32), ("resnet20", 16), ("channels last", 16)]
)
def test_the_tail_of_masked_activations_is_the_network_with_the_mask_in_place(name, size):
    network, images = _network(name, size)
    for scale in find_scales(network, images):
        tail = tail_of(network, scale, images)
        (activations,) = read_scales(network, (scale,), images)
        mask = (torch.rand(activations.shape[:1] + scale_size(scale)) < 0.3).float()
        mask = mask[..., None] if scale.channels_last else mask[:, None]
        if scale.layer_input:
            handle = scale.module.register_forward_pre_hook(lambda *args, m=mask: args[1][0] * m)
        else:
            handle = scale.module.register_forward_hook(lambda *args, m=mask: args[2] * m)
        with torch.no_grad():
            whole = network(images)
            handle.remove()
            part = tail(activations * mask)
            assert torch.equal(part, whole)
            assert not torch.equal(whole, network(images))


def scale_size(scale: Scale) -> tuple[int, int]:
    return scale.shape[1:3] if scale.channels_last else scale.shape[2:4]


def test_the_tail_holds_what_comes_after_and_nothing_else():
    network, images = _network("resnet9", 32)
    scales = find_scales(network, images)
    names = [scale.name for scale in scales]
    assert names == ["stage1.0", "stage2.0", "stage3.0", "stage3"]
    children = [
        ("stage1.1", "stage1.2", "stage2", "stage3", "head"),
        ("stage2.1", "stage3", "head"),
        ("stage3.1", "stage3.2", "head"),
        ("head",),
    ]
    state = network.state_dict()
    for scale, after in zip(scales, children, strict=True):
        tail = tail_of(network, scale, images).state_dict()
        assert set(tail) == {name for name in state if name.startswith(after)}
        # The network's own tensors, not copies of them.
        assert all(tail[name].data_ptr() == state[name].data_ptr() for name in tail)


def test_norms_of_the_tail_follow_its_mode():
    network, images = _network("resnet9", 32)
    tail = tail_of(network, find_scales(network, images)[2], images).train()
    norms = [m for m in tail.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(norm.training for norm in norms)
    assert not network.stem[1].training


def _scale(module: nn.Module, name: str, shape: tuple[int, ...]) -> Scale:
    return Scale(name, module, 0, shape, (1, 1), False)


class _Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x + self.inner(x)


class _Again(_Around):
    def __init__(self) -> None:
        super().__init__()
        self.inner.weight = nn.Parameter(torch.ones(4, 4, 1, 1))
        self.outer = nn.Conv2d(4, 4, 1)
        self.outer.weight = self.first.weight = self.inner.weight
        self.first = nn.Conv2d(4, 4, 1)
        self.first.weight = self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(self.first(x.repeat(1, 2, 1, 1)[:, :4])))


class _Depends(_Around):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.inner(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Around, "a path avoids layer 'inner'"),
        (_Again, "weights before layer 'inner' are used again after it"),
        (_Depends, "torch.fx cannot follow _Depends.forward"),
    ],
)
def test_a_network_that_cannot_be_cut_is_named(kind, message):
    network = kind().eval()
    with pytest.raises(TailError, match=message):
        tail_of(network, _scale(network.inner, "inner", (1, 4, 8, 8)), torch.rand(1, 3, 8, 8))
