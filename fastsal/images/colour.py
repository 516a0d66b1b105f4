"""Colour pictures of saliency maps: LOVI, heat map and overlay, as RGB tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["heatmap", "lovi", "overlay"]

# Hue of the first layer in degrees; the last layer's is 0, red (Eq 4).
_FIRST_HUE = 300.0

# Bilinear upsampling can leave [0, 1] by rounding: so much is let pass.
_ROUNDING = 1e-4

# Matplotlib's magma (CC0) at 17 equal steps. Linear interpolation between them stays within
# 0.0081 of its 256 entries.
_MAGMA = (
    "000004",
    "0a0822",
    "1d1147",
    "36106b",
    "51127c",
    "6a1c81",
    "832681",
    "9c2e7f",
    "b73779",
    "cf4070",
    "e55064",
    "f4695c",
    "fb8761",
    "fea571",
    "fec287",
    "fde0a1",
    "fcfdbf",
)


def lovi(maps: Tensor) -> Tensor:
    """Colour each location by the layers that find it salient (LOVI).

    With ``S_k`` the map of layer ``k = 1..r``, ``phi(k) = 1 - (k - 1) / (r - 1)`` and
    ``nu = 1 / r``::

        hue        = 300 * sum_k S_k phi(k) / sum_k S_k        degrees; first violet, last red
        saturation = 1 - (sum_k S_k / (r * max_k S_k) - nu) / (1 - nu)
        value      = max_k S_k

    then HSV to RGB. A location that one layer alone finds salient is saturated, one on which all
    layers agree is grey. Deviations from the paper, where its equations read 0/0: a location no
    layer finds salient is black, and a single layer (``r = 1``) gives a grey picture, since a hue
    would tell nothing.

    Args:
        maps: ``(N, r, H, W)`` in [0, 1], one map a layer, first layer first, upsampled to one size.

    Returns:
        RGB ``(N, 3, H, W)`` in [0, 1]; float32, or float64 if `maps` is.

    Raises:
        ValueError: If there are not four dimensions, no layer, or values that are NaN or outside
            [0, 1].
        TypeError: If the maps are no floating-point tensor.

    Reference:
        Mundhenk, Chen, Friedland, "Efficient Saliency Maps for Explainable AI",
        arXiv 1911.11293, Eq 4 to 7.

    >>> only_first_then_only_last = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    >>> lovi(only_first_then_only_last)[0, :, 0].T.tolist()
    [[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    maps = _unit_range(maps, "lovi: maps", ("N", "R", "H", "W"))
    if maps.shape[1] == 0:
        raise ValueError("lovi: maps holds no layer; expected (N, R, H, W) with R at least 1")
    return lovi_colours(maps)


def lovi_colours(maps: Tensor) -> Tensor:
    """Return the colours of `lovi` without its checks of values, which no compiler can trace.

    Args:
        maps: As for `lovi`, in [0, 1].

    >>> lovi_colours(torch.ones(1, 2, 1, 1)).flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    r = maps.shape[1]
    value = maps.amax(1)
    if r == 1:
        return value[:, None].expand(-1, 3, -1, -1).contiguous()
    total = maps.sum(1)
    salient = value > 0
    # Where nothing is salient the value is 0, so any finite hue and saturation give black.
    safe_total = torch.where(salient, total, 1.0)
    safe_value = torch.where(salient, value, 1.0)
    phi = torch.linspace(1, 0, r, dtype=maps.dtype, device=maps.device)
    hue = _FIRST_HUE * torch.einsum("nrhw,r->nhw", maps, phi) / safe_total
    nu = 1 / r
    saturation = 1 - (total / (r * safe_value) - nu) / (1 - nu)
    return _hsv_to_rgb(hue, saturation.clamp(0, 1), value)


def heatmap(maps: Tensor) -> Tensor:
    """Colour a saliency map by a perceptually uniform colour map, black to light yellow (magma).

    Args:
        maps: ``(N, H, W)`` in [0, 1].

    Returns:
        RGB ``(N, 3, H, W)`` in [0, 1]; float32, or float64 if `maps` is.

    Raises:
        ValueError: If there are not three dimensions, or values that are NaN or outside [0, 1].
        TypeError: If the maps are no floating-point tensor.

    >>> heatmap(torch.tensor([[[0.0, 0.5, 1.0]]]))[0, 0].mul(255).tolist()
    [[0.0, 183.0, 252.0]]
    """
    maps = _unit_range(maps, "heatmap: maps", ("N", "H", "W"))
    rows = [[int(colour[at : at + 2], 16) for at in (0, 2, 4)] for colour in _MAGMA]
    table = torch.tensor(rows, dtype=maps.dtype, device=maps.device) / 255
    place = maps * (len(_MAGMA) - 1)
    below = place.floor().long().clamp(max=len(_MAGMA) - 2)
    rgb = torch.lerp(table[below], table[below + 1], (place - below)[..., None])
    return rgb.permute(0, 3, 1, 2).contiguous()


def overlay(images: Tensor, maps: Tensor, alpha: float = 0.5) -> Tensor:
    """Lay a saliency map's heat map over its image: ``(1 - alpha) image + alpha heatmap(map)``.

    Args:
        images: ``(N, 3, H, W)`` RGB in [0, 1], before the network's normalisation.
        maps: ``(N, H, W)`` in [0, 1].
        alpha: Share of the heat map, in [0, 1].

    Returns:
        RGB ``(N, 3, H, W)`` in [0, 1].

    Raises:
        ValueError: If the shapes do not fit, or a value or `alpha` lies outside [0, 1].
        TypeError: If one is no floating-point tensor.

    >>> overlay(torch.ones(1, 3, 1, 1), torch.zeros(1, 1, 1), alpha=0.25)[0, 0].item()
    0.75
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"overlay: alpha is {alpha}; expected a share in [0, 1]")
    images = _unit_range(images, "overlay: images", ("N", "3", "H", "W"))
    count, _, height, width = images.shape
    if images.shape[1] != 3 or maps.shape != (count, height, width):
        raise ValueError(
            f"overlay: images {tuple(images.shape)} and maps {tuple(maps.shape)}; expected "
            "(N, 3, H, W) and (N, H, W) with the same N, H and W"
        )
    return torch.lerp(images, heatmap(maps).to(images), alpha)


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert HSV ``(N, H, W)``, hue in degrees, to RGB ``(N, 3, H, W)``.

    Channel ``c`` is ``V - V S max(0, min(k, 4 - k, 1))``, ``k = (n_c + hue / 60) mod 6``,
    ``n = (5, 3, 1)``: the six-case definition without its cases.
    """
    n = torch.tensor([5, 3, 1], dtype=hue.dtype, device=hue.device)[:, None, None]
    k = (n + hue[:, None] / 60) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)


def _unit_range(tensor: Tensor, name: str, dimensions: tuple[str, ...]) -> Tensor:
    """Return a tensor as float32 or float64, clamped to [0, 1], which it may leave by rounding.

    Raises:
        ValueError: If it has other dimensions, or values that are NaN or outside [0, 1].
        TypeError: If it is no floating-point tensor.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} is {kind}; expected a floating-point tensor")
    expected = f"({', '.join(dimensions)})"
    if tensor.dim() != len(dimensions):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}")
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if tensor.numel():
        least, most = (bound.item() for bound in torch.aminmax(tensor))
        # A NaN compares false, and so raises too.
        if not (least >= -_ROUNDING and most <= 1 + _ROUNDING):
            raise ValueError(
                f"{name} holds values from {least:.4g} to {most:.4g}; expected [0, 1]: "
                "normalise it first"
            )
    return tensor.clamp(0, 1)
