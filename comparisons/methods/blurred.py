"""Each method blurred: a control, since what scores better for a blur scores for its shape."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from evaluation.masking.variants import BLURRED

if TYPE_CHECKING:
    from comparisons.methods.registry import Batch, Explain, Method, Prepare

__all__ = ["WithBlurred", "blur"]

# Standard deviation of the blur, as a share of the image's height: 2 pixels of 32, 14 of 224.
_SIGMA_SHARE = 1 / 16
_CUT_OFF = 3.0
_SOURCE = "Song et al. 2023"


class WithBlurred(dict[str, "Method"]):
    """Methods by name; ``NAME+blur`` is the blurred form of each, made when it is asked for.

    Only the methods themselves are listed, counted and gone through.
    """

    def __contains__(self, name: object) -> bool:
        """Whether it is a method, or the blurred form of one."""
        own = name.removesuffix(BLURRED) if isinstance(name, str) else name
        return super().__contains__(own)

    def __missing__(self, name: str) -> Method:
        """The blurred form of a method."""
        own = name.removesuffix(BLURRED)
        if not super().__contains__(own):
            raise KeyError(name)
        return _blurred(self[own], name)


def blur(maps: Tensor) -> Tensor:
    """Maps through a Gaussian of one sixteenth of their height, mirrored at the border.

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
    blurred: Tensor = gaussian_blur(planes, size, [sigma, sigma])
    return blurred.reshape(maps.shape)


def _blurred(method: Method, name: str) -> Method:
    # With no scales: a LOVI picture of the method would be another method's.
    return replace(
        method,
        name=name,
        title=f"{method.title}, blurred",
        group="control",
        citation=f"{method.citation}; {_SOURCE}",
        parameters={**method.parameters, "blur_sigma_share": _SIGMA_SHARE},
        prepare=_after(method.prepare),
        scales=None,
        by_channel=None if method.by_channel is None else _after(method.by_channel),
    )


def _after(prepare: Prepare) -> Prepare:
    def prepare_blurred(model: nn.Module) -> Explain:
        explain = prepare(model)

        def explain_blurred(batch: Batch) -> Tensor:
            return blur(explain(batch))

        return explain_blurred

    return prepare_blurred
