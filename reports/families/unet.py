"""A small U-Net for images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["UNet"]


def _twice(inside: int, outside: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers += [
            nn.Conv2d(channels, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """A U-Net: an encoder of four stages, and a decoder that reads each of them.

    Args:
        classes: number of classes of a pixel.
        width: channels of the first stage, doubled at each of the others.

    Reference:
        Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation",
        Figure 1, with padded convolutions and batch norm.

    >>> UNet(3, width=4).eval()(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 3, 32, 32])
    """

    def __init__(self, classes: int, width: int = 16) -> None:
        super().__init__()
        channels = [width * 2**stage for stage in range(4)]
        inside = [3, *channels[:-1]]
        self.down = nn.ModuleList(
            _twice(before, after) for before, after in zip(inside, channels, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * coarse, coarse, 2, 2) for coarse in channels[-2::-1]
        )
        self.joined = nn.ModuleList(_twice(2 * coarse, coarse) for coarse in channels[-2::-1])
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every pixel, `(N, classes, H, W)`; rows and columns are multiples of 8."""
        kept: list[Tensor] = []
        for number, stage in enumerate(self.down):
            x = stage(self.pool(x) if number else x)
            kept.append(x)
        for up, joined, fine in zip(self.up, self.joined, kept[-2::-1], strict=True):
            x = joined(torch.cat([fine, up(x)], 1))
        logits: Tensor = self.head(x)
        return logits
