"""A network for CIFAR-10 in seconds on a GPU, after airbench94."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["FastNet", "patch_filters"]

# Channels of the three groups, and of the first layer: both signs of each filter.
_WIDTHS = (64, 256, 256)
# Variance along each axis of natural images' 2x2 patches, over that of all twelve numbers being
# alike: mean, two differences and diagonal in space; grey and two contrasts in colour. Rounded from
# 3,000 images of CIFAR-10, whose own principal axes these are.
_IN_SPACE = (1.0, 0.03, 0.03, 0.005)
_IN_COLOUR = (1.0, 0.08, 0.02)
# Added to each variance, as airbench does, so that noise is not amplified.
_NOISE = 5e-4
# Scale of the logits, which keeps the first steps of a high learning rate stable.
_LOGIT_SCALE = 1 / 9


class FastNet(nn.Module):
    """Seven convolutions for small images, two a group; 147 M multiply-adds at 32x32.

    After airbench94: 2x2 patches in whitened coordinates first, then three groups of convolution,
    pooling and convolution with 64, 256 and 256 channels, the largest value of each channel, and
    logits scaled by 1/9. Deviations: the whitening filters are `patch_filters`, which need no
    image, and are trained on; ReLU in place of GELU, since Guided Backprop knows no other; a
    padded first layer, so that scales are halves of the image's size.

    Args:
        classes: number of classes.

    Reference:
        Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, sections
        3.1 to 3.3.

    >>> FastNet(10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        filters = patch_filters()
        self.whitening = nn.Conv2d(3, 2 * len(filters), 2)
        self.whitening.weight = nn.Parameter(torch.cat((filters, -filters)))
        self.whitening.bias = nn.Parameter(torch.zeros(2 * len(filters)))
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), self.whitening, nn.ReLU())
        widths = (2 * len(filters), *_WIDTHS)
        self.group1, self.group2, self.group3 = itertools.starmap(
            _Group, itertools.pairwise(widths)
        )
        self.head = nn.Linear(_WIDTHS[-1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)``, at least 8x8, to logits ``(N, classes)``."""
        x = self.group3(self.group2(self.group1(self.stem(x))))
        logits: Tensor = self.head(x.amax((2, 3)))
        return logits * _LOGIT_SCALE


class _Group(nn.Sequential):
    """Convolution, pooling and convolution; each followed by BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            _convolution(inputs, outputs),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution that at first passes its inputs on, as far as it has channels for them."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight[: min(inputs, outputs)])
    return convolution


def patch_filters() -> Tensor:
    r"""Whitening filters of 2x2 patches of colour images, without an image.

    Neighbouring pixels of natural images are alike, whatever the image, so that the principal
    axes of small patches are known: mean and differences in space (a 2x2 Haar basis) times grey and
    two contrasts of colours. Each axis is divided by its standard deviation on normalised images.

    $$f_{s c} = \frac{h_s \otimes k_c}{\sqrt{12 v_s v_c + \epsilon}}$$

    Returns:
        ``(12, 3, 2, 2)``.

    >>> patch_filters().shape
    torch.Size([12, 3, 2, 2])
    """
    space = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    colour = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colour = colour / colour.norm(dim=1, keepdim=True)
    # Twelve equal numbers of variance 1 have the variance 12 along their mean's axis.
    variance = 12 * torch.tensor(_IN_SPACE)[:, None] * torch.tensor(_IN_COLOUR)
    axes = torch.einsum("sp,ck->sckp", space, colour)
    filters = axes / (variance + _NOISE).sqrt()[..., None, None]
    return filters.reshape(-1, 3, 2, 2)
