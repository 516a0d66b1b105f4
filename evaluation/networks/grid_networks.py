"""Small convolutional networks for volumes and signals, with the same layers along any axes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ConvNet", "channels_last_of"]

_OF_AXES: dict[str, dict[int, Any]] = {
    "conv": {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d},
    "norm": {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "pool": {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d},
}


_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def channels_last_of(axes: int) -> torch.memory_format:
    """The memory format of inputs whose channels lie side by side; of signals there is one alone.

    Args:
        axes: 1 for signals, 2 for images, 3 for volumes.

    >>> channels_last_of(3), channels_last_of(1)
    (torch.channels_last_3d, torch.contiguous_format)
    """
    return _CHANNELS_LAST.get(axes, torch.contiguous_format)


class ConvNet(nn.Module):
    """Stages of convolution, BatchNorm, ReLU and pooling, and a linear layer after the mean.

    Args:
        classes: number of classes.
        axes: 1 for signals, 2 for images, 3 for volumes.
        channels: channels of the inputs.
        width: channels of the first stage, doubled at each of the others.
        stages: number of stages; each but the first halves every axis.
        kernel: taps of a convolution along each axis.

    >>> ConvNet(5, axes=3, channels=1)(torch.zeros(2, 1, 16, 16, 16)).shape
    torch.Size([2, 5])
    >>> ConvNet(4, axes=1, channels=2)(torch.zeros(2, 2, 128)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        classes: int,
        *,
        axes: int,
        channels: int,
        width: int = 8,
        stages: int = 4,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        conv, norm, pool = (_OF_AXES[name][axes] for name in ("conv", "norm", "pool"))
        layers: list[nn.Module] = []
        for stage in range(stages):
            outputs = width * 2**stage
            halved = [pool(2)] if stage else []
            layers.append(
                nn.Sequential(
                    *halved,
                    conv(channels, outputs, kernel, padding=kernel // 2, bias=False),
                    norm(outputs),
                    nn.ReLU(),
                )
            )
            channels = outputs
        self.stages = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` to logits ``(N, classes)``."""
        logits: Tensor = self.head(self.stages(x).flatten(2).mean(2))
        return logits
