"""Random removal from the images of a training step, as a layer in front of a network.

A network that is fine-tuned behind such a layer knows images with holes, wherever a saliency map
will put them: one fine-tuning serves all methods. The holes come after crops and flips, at the
places that a measure tests, and from PyTorch's generator, as those of dropout do: a training draws
them from its seed. In evaluation mode the layers do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.masking.levels import pixels_at
from evaluation.masking.patches import patch_of_pixels

__all__ = ["RandomPatch", "RandomPixels", "removal"]


class RandomPixels(nn.Module):
    """Random pixels set to 0, the channel mean, in each image of a training step.

    From none of the pixels up to a share of them, each number equally likely; all channels of a
    pixel go.

    Args:
        share: of the pixels, at most; in (0, 1].

    Raises:
        ValueError: another share.

    Reference:
        Zheng et al. 2024, F-Fidelity; deviation: the number of removed pixels is
        drawn too, so that the whole image stays among what the network knows.

    >>> layer = RandomPixels(0.5)
    >>> bool((layer(torch.ones(8, 1, 2, 2)).sum((1, 2, 3)) >= 2).all())
    True
    >>> layer.eval()(torch.ones(1, 1, 1, 2)).tolist()
    [[[[1.0, 1.0]]]]
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ValueError(f"share {share:g} of random pixels: expected more than 0, at most 1")
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        """Remove pixels of images ``(N, C, H, W)``, of volumes or of signals."""
        if not self.training:
            return images
        count, _, *sides = images.shape
        pixels = math.prod(sides)
        most = pixels_at(self.share, pixels)
        keys = torch.rand(count, pixels, device=images.device)
        # The least keys, in a random order: their first k are a random k of all pixels.
        chosen = keys.topk(most, dim=1, largest=False).indices
        wanted = torch.randint(0, most + 1, (count, 1), device=images.device)
        removed = torch.arange(most, device=images.device) < wanted
        kept = torch.ones_like(keys).scatter_(1, chosen, (~removed).to(keys.dtype))
        return images * kept.view(count, 1, *sides).to(images.dtype)


class RandomPatch(nn.Module):
    """One random patch set to 0, the channel mean, in about half of the images of a training step.

    Args:
        grid: rows, and columns, of patches.

    Reference:
        Hesse et al. 2024, IDSDS, section 4 and the authors' training script; deviation: none.

    >>> holes = (RandomPatch(2)(torch.ones(99, 1, 4, 4)) == 0).sum((1, 2, 3))
    >>> sorted(set(holes.tolist()))
    [0, 4]
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, images: Tensor) -> Tensor:
        """Remove a patch of images ``(N, C, H, W)``."""
        if not self.training:
            return images
        count, _, height, width = images.shape
        patches = torch.from_numpy(patch_of_pixels((height, width), self.grid)).to(images.device)
        of_image = torch.randint(0, self.grid**2, (count, 1, 1), device=images.device)
        removed = torch.rand(count, 1, 1, device=images.device) < 0.5
        kept = (patches != of_image) | ~removed
        return images * kept[:, None].to(images.dtype)


_LAYERS: dict[str, type[RandomPixels | RandomPatch]] = {
    "pixels": RandomPixels,
    "patch": RandomPatch,
}


def removal(spec: Mapping[str, Any]) -> nn.Module:
    """The layer of a specification: ``removes``, and the layer's arguments by name.

    Raises:
        ValueError: another word than those of the layers.

    >>> removal({"removes": "patch", "grid": 4}).grid
    4
    """
    arguments = dict(spec)
    name = arguments.pop("removes", None)
    if name not in _LAYERS:
        raise ValueError(f"random removal of {name!r}: expected one of {', '.join(_LAYERS)}")
    return _LAYERS[name](**arguments)
