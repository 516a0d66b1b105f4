"""Colour pictures of saliency maps: LOVI, heat map and overlay, as RGB tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.images.colormaps import colormap

__all__ = ["heatmap", "lovi", "overlay"]

# Hue of the first layer in degrees; the last layer's is 0, red (Eq 4).
_FIRST_HUE = 300.0

# Bilinear upsampling can leave [0, 1] by rounding: so much is let pass.
_ROUNDING = 1e-4

# The overlay is transparent up to `_FLOOR` and has its full opacity from `_FULL` on; `_GREY` is the
# share of grey in the image below. They were chosen, with the colour map, by looking at twenty
# photographs: `python -m reports.pictures.contact_sheet` draws such a sheet.
OVERLAY_CMAP = "inferno"
_FLOOR = 0.35
_FULL = 0.75
_GREY = 0.75
_SHARPNESS = 4


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

    The paper's hues are not told apart by everyone: who sees two hues alone takes the middle scales
    (green) and the last (red) for one. For them show the maps of `Maps.per_scale` side by side.

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


def heatmap(maps: Tensor, *, cmap: str = "magma") -> Tensor:
    """Colour a saliency map by a colour map: by magma, from black to light yellow.

    Args:
        maps: ``(N, H, W)`` in [0, 1].
        cmap: The name of a colour map, as for `fastsal.images.colormaps.colormap`: "magma",
            "inferno", "viridis", "plasma", "cividis", which need no other package, or one of
            Matplotlib's.

    Returns:
        RGB ``(N, 3, H, W)`` in [0, 1]; float32, or float64 if `maps` is.

    Raises:
        ValueError: If there are not three dimensions, values that are NaN or outside [0, 1], or an
            unknown colour map.
        TypeError: If the maps are no floating-point tensor.
        ImportError: If the colour map is one of Matplotlib's and that is not installed.

    >>> heatmap(torch.tensor([[[0.0, 0.5, 1.0]]]))[0, 0].mul(255).tolist()
    [[0.0, 183.0, 252.0]]
    """
    return _coloured(_unit_range(maps, "heatmap: maps", ("N", "H", "W")), cmap)


def overlay(
    images: Tensor,
    maps: Tensor,
    alpha: float = 0.8,
    *,
    cmap: str = OVERLAY_CMAP,
    grey: float = _GREY,
) -> Tensor:
    """Lay a saliency map in colour over its image: transparent where nothing is salient.

    With ``S`` the map, ``G`` the image with a share of grey, ``t = (S - 0.35) / 0.4`` clipped to
    [0, 1] and ``C`` the colour map::

        opacity = alpha * t^2 (3 - 2 t)
        picture = (1 - opacity) G + opacity C((S - 0.35) / 0.65)

    Maps of several scales say which scale saw it: ``C`` is the hue and saturation of `lovi` of
    ``S_k^4``, at full value, and ``S = sum_k k S_k / sum_k k``. The power keeps hues apart that the
    average over scales would bring to green.

    Args:
        images: ``(N, 3, H, W)`` RGB in [0, 1], before the network's normalisation: the `pixels` of
            `fastsal.load_images`.
        maps: ``(N, H, W)`` in [0, 1], or ``(N, R, H, W)``, one map a scale, as `Maps.stacked`.
        alpha: Opacity of what is most salient, in [0, 1].
        cmap: The name of a colour map, as for `heatmap`; inferno is told apart by people who see
            two hues alone. LOVI takes none.
        grey: Share of grey in the image below, in [0, 1]; 0 keeps its colours.

    Returns:
        RGB ``(N, 3, H, W)`` in [0, 1].

    Raises:
        ValueError: If the shapes do not fit, a value, `alpha` or `grey` lies outside [0, 1], or the
            colour map is unknown.
        TypeError: If one is no floating-point tensor.
        ImportError: If the colour map is one of Matplotlib's and that is not installed.

    >>> maps = torch.tensor([[[0.3, 1.0]]])
    >>> overlay(torch.ones(1, 3, 1, 2), maps, alpha=0.5, cmap="magma")[0, 0].mul(255).tolist()
    [[255.0, 253.5]]
    """
    for name, share in (("alpha", alpha), ("grey", grey)):
        if not 0 <= share <= 1:
            raise ValueError(f"overlay: {name} is {share}; expected a share in [0, 1]")
    images = _unit_range(
        images,
        "overlay: images",
        ("N", "3", "H", "W"),
        "give the image before the network's normalisation, as `pixels` of fastsal.load_images, or "
        "undo it by (images * std + mean).clamp(0, 1)",
    )
    count, channels, height, width = images.shape
    fits = maps.dim() in (3, 4) and (maps.shape[0], *maps.shape[-2:]) == (count, height, width)
    if channels != 3 or not fits:
        raise ValueError(
            f"overlay: images {tuple(images.shape)} and maps {tuple(maps.shape)}; expected "
            "(N, 3, H, W) and (N, H, W), or (N, R, H, W), with the same N, H and W"
        )
    if maps.dim() == 4:
        stacked = _unit_range(maps, "overlay: maps", ("N", "R", "H", "W"))
        weights = torch.arange(1, maps.shape[1] + 1, dtype=stacked.dtype, device=stacked.device)
        saliency = torch.einsum("nrhw,r->nhw", stacked, weights / weights.sum())
        colours = lovi(stacked.pow(_SHARPNESS))
        colours = colours / colours.amax(1, keepdim=True).clamp(min=1e-12)
    else:
        saliency = _unit_range(maps, "overlay: maps", ("N", "H", "W"))
        colours = _coloured(((saliency - _FLOOR) / (1 - _FLOOR)).clamp(min=0), cmap)
    ramp = ((saliency - _FLOOR) / (_FULL - _FLOOR)).clamp(0, 1)
    opacity = alpha * ramp.square() * (3 - 2 * ramp)
    below = torch.lerp(images, grey_of(images).expand_as(images), grey)
    return torch.lerp(below, colours.to(images), opacity[:, None].to(images))


def grey_of(images: Tensor) -> Tensor:
    """Return the grey `(N, 1, H, W)` of RGB images: `0.299 R + 0.587 G + 0.114 B`.

    >>> grey_of(torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1)).mul(1000).round().item()
    592.0
    """
    shares = images.new_tensor((0.299, 0.587, 0.114)).reshape(1, 3, 1, 1)
    return (images * shares).sum(1, keepdim=True)


def _coloured(maps: Tensor, cmap: str) -> Tensor:
    """Return the colours of a map `(N, H, W)` in [0, 1], interpolated in the colour map's table."""
    table = colormap(cmap).to(maps)
    steps = len(table) - 1
    place = maps * steps
    below = place.floor().long().clamp(max=steps - 1)
    rgb = torch.lerp(table[below], table[below + 1], (place - below)[..., None])
    return rgb.permute(0, 3, 1, 2).contiguous()


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Convert HSV ``(N, H, W)``, hue in degrees, to RGB ``(N, 3, H, W)``.

    Channel ``c`` is ``V - V S max(0, min(k, 4 - k, 1))``, ``k = (n_c + hue / 60) mod 6``,
    ``n = (5, 3, 1)``: the six-case definition without its cases.
    """
    n = torch.tensor([5, 3, 1], dtype=hue.dtype, device=hue.device)[:, None, None]
    k = (n + hue[:, None] / 60) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * ramp)


def _unit_range(
    tensor: Tensor,
    name: str,
    dimensions: tuple[str, ...],
    remedy: str = "scale them to it, for example by their largest value",
) -> Tensor:
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
                f"{name} holds values from {least:.4g} to {most:.4g}; expected [0, 1]: {remedy}"
            )
    return tensor.clamp(0, 1)
