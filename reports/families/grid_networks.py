"""Networks for volumes, signals and pictures of text, one of each family, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from evaluation.networks.grid_networks import ConvNet
from fastsal.optional import needed

__all__ = ["CRNN", "GRID_NETWORKS", "EEGNet", "GridNetwork", "ResNet1d"]


class _Block1d(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 7, stride, 3, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, 7, 1, 3, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        z: Tensor = self.relu(y + self.shortcut(x))
        return z


class ResNet1d(nn.Module):
    """A residual network for signals, as for electrocardiograms (Ribeiro et al. 2020).

    Args:
        classes: number of classes.
        channels: channels of the signals.
        width: channels of the first stage, doubled at each of the others.

    >>> import torch
    >>> ResNet1d(4, 2)(torch.zeros(2, 2, 256)).shape
    torch.Size([2, 4])
    """

    def __init__(self, classes: int, channels: int, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(channels, width, 15, padding=7, bias=False), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.stages = nn.Sequential(
            *(_Block1d(width * 2 ** max(0, i - 1), width * 2**i, 2) for i in range(4))
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T)`` to logits ``(N, classes)``."""
        logits: Tensor = self.head(self.stages(self.stem(x)).mean(2))
        return logits


class EEGNet(nn.Module):
    """EEGNet: a signal of several electrodes, as a picture of one channel, electrodes by time.

    Args:
        classes: number of classes.
        electrodes: rows of the picture.
        filters: temporal filters; each has two spatial ones.

    Reference:
        Lawhern et al. 2018, "EEGNet: a compact convolutional neural network for EEG-based
        brain-computer interfaces", Table 2.

    >>> import torch
    >>> EEGNet(4, 16)(torch.zeros(2, 1, 16, 256)).shape
    torch.Size([2, 4])
    """

    def __init__(self, classes: int, electrodes: int, filters: int = 8) -> None:
        super().__init__()
        spatial = 2 * filters
        self.temporal = nn.Sequential(
            nn.Conv2d(1, filters, (1, 64), padding="same", bias=False), nn.BatchNorm2d(filters)
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(filters, spatial, (electrodes, 1), groups=filters, bias=False),
            nn.BatchNorm2d(spatial),
            nn.ELU(),
            nn.AvgPool2d((1, 4)),
            nn.Dropout(0.5),
        )
        self.separable = nn.Sequential(
            nn.Conv2d(spatial, spatial, (1, 16), padding="same", groups=spatial, bias=False),
            nn.Conv2d(spatial, spatial, 1, bias=False),
            nn.BatchNorm2d(spatial),
            nn.ELU(),
            nn.AvgPool2d((1, 8)),
            nn.Dropout(0.5),
        )
        self.head = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, electrodes, T)`` to logits ``(N, classes)``."""
        logits: Tensor = self.head(self.separable(self.spatial(self.temporal(x))).flatten(1))
        return logits


class CRNN(nn.Module):
    """CRNN: a line of text as a picture, read by convolutions and an LSTM along its width.

    Args:
        symbols: symbols of the alphabet, the blank included.
        width: channels of the first stage.

    Reference:
        Shi et al. 2017, "An End-to-End Trainable Neural Network for Image-Based Sequence
        Recognition", Table 1: poolings of 2x2 first and 2x1 after, so that the width stays long.

    >>> import torch
    >>> CRNN(37)(torch.zeros(2, 1, 32, 100)).shape
    torch.Size([26, 2, 37])
    """

    def __init__(self, symbols: int, width: int = 16) -> None:
        super().__init__()

        def stage(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.features = nn.Sequential(
            *stage(1, width),
            nn.MaxPool2d(2),
            *stage(width, 2 * width),
            nn.MaxPool2d(2),
            *stage(2 * width, 4 * width),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            *stage(4 * width, 8 * width),
            nn.AdaptiveAvgPool2d((1, None)),
        )
        self.sequence = nn.LSTM(8 * width, 4 * width, bidirectional=True)
        self.head = nn.Linear(8 * width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 1, H, W)`` to logits of each step, ``(steps, N, symbols)``."""
        steps = self.features(x).squeeze(2).permute(2, 0, 1)
        logits: Tensor = self.head(self.sequence(steps)[0])
        return logits


@dataclass(frozen=True)
class GridNetwork:
    """One network of a family, and an input that it takes.

    Args:
        name: the family.
        build: makes the network.
        shape: of an input, without the batch.
        planted: ``"volumes"`` or ``"signals"`` if it can be trained on that set; else empty.
        classes: the network of a number of classes, for its training on that set.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    planted: str = ""
    classes: Callable[[int], nn.Module] | None = field(default=None, repr=False)


def _video(name: str, **options: Any) -> nn.Module:
    from torchvision.models import video

    network: nn.Module = getattr(video, name)(weights=None, **options)
    return network


def _monai(name: str, **options: Any) -> nn.Module:
    nets: Any = needed("monai.networks.nets", f"MONAI's {name}", "monai")
    network: nn.Module = getattr(nets, name)(spatial_dims=3, in_channels=1, **options)
    return network


GRID_NETWORKS: dict[str, GridNetwork] = {
    one.name: one
    for one in (
        GridNetwork("r3d_18", partial(_video, "r3d_18"), (3, 16, 112, 112)),
        GridNetwork("mc3_18", partial(_video, "mc3_18"), (3, 16, 112, 112)),
        GridNetwork("r2plus1d_18", partial(_video, "r2plus1d_18"), (3, 16, 112, 112)),
        GridNetwork("s3d", partial(_video, "s3d"), (3, 16, 224, 224)),
        GridNetwork(
            "monai:DenseNet121", partial(_monai, "DenseNet121", out_channels=5), (1, 64, 64, 64)
        ),
        GridNetwork(
            "monai:UNet",
            partial(_monai, "UNet", out_channels=2, channels=(8, 16, 32, 64), strides=(2, 2, 2)),
            (1, 64, 64, 64),
        ),
        GridNetwork(
            "convnet-3d",
            partial(ConvNet, 5, axes=3, channels=1),
            (1, 64, 64, 64),
            "volumes",
            partial(ConvNet, axes=3, channels=1),
        ),
        GridNetwork(
            "convnet-1d",
            partial(ConvNet, 4, axes=1, channels=2, kernel=7),
            (2, 4096),
            "signals",
            partial(ConvNet, axes=1, channels=2, kernel=7),
        ),
        GridNetwork(
            "ResNet1d",
            partial(ResNet1d, 4, 12),
            (12, 4096),
            "signals",
            partial(ResNet1d, channels=2),
        ),
        GridNetwork("EEGNet", partial(EEGNet, 4, 32), (1, 32, 512)),
        GridNetwork("CRNN", partial(CRNN, 37), (1, 32, 128)),
    )
}
