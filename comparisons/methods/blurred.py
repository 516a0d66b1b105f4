"""Blurred forms of methods: a method that scores better when blurred scores for its shape."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from comparisons.methods.base import Batch, Explain, Method, Prepare
from evaluation.masking.variants import BLURRED

__all__ = ["blur", "blurred"]

# Standard deviation of the blur, as a share of the image's height: 2 pixels of 32, 14 of 224.
_SIGMA_SHARE = 1 / 16
_CUT_OFF = 3.0
_SOURCE = "Song et al. 2023"


def blur(maps: Tensor) -> Tensor:
    """Blur maps with a Gaussian of one sixteenth of their height, mirrored at the border.

    Args:
        maps: `(N, H, W)` or `(N, C, H, W)`.

    Returns:
        In the shape of `maps`.

    >>> import torch
    >>> point = torch.zeros(1, 16, 16)
    >>> point[0, 8, 8] = 1
    >>> round(float(blur(point)[0, 8, 9] / blur(point)[0, 8, 8]), 4), round(math.exp(-0.5), 4)
    (0.6065, 0.6065)
    """
    sigma = _SIGMA_SHARE * maps.shape[-2]
    reach = min(math.ceil(_CUT_OFF * sigma), min(maps.shape[-2:]) - 1)
    size = [2 * reach + 1] * 2
    planes = maps.unsqueeze(1) if maps.ndim == 3 else maps
    smooth: Tensor = gaussian_blur(planes, size, [sigma, sigma])
    return smooth.reshape(maps.shape)


def blurred(method: Method) -> Method:
    """Return the blurred form of a method: a control with the same passes.

    Args:
        method: not blurred itself.
    """
    # Without scales: their LOVI picture would be that of the method itself.
    return replace(
        method,
        name=method.name + BLURRED,
        title=f"{method.title}, blurred",
        group="control",
        citation=f"{method.citation}; {_SOURCE}",
        parameters={**method.parameters, "blur_sigma_share": _SIGMA_SHARE},
        prepare=_after(method.prepare),
        scales=None,
        by_channel=None if method.by_channel is None else _after(method.by_channel),
        axes=(2,),
    )


def _after(prepare: Prepare) -> Prepare:
    def prepare_blurred(model: nn.Module) -> Explain:
        explain = prepare(model)

        def explain_blurred(batch: Batch) -> Tensor:
            return blur(explain(batch))

        return explain_blurred

    return prepare_blurred
