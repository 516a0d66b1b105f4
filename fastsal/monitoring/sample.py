"""What is read of one watched forward pass: maps, two numbers a scale, and their picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastsal.images.colour import heatmap, lovi, overlay
from fastsal.maps.resize import upsample
from fastsal.networks.scales import Scale


@dataclass(frozen=True, eq=False)
class Sample:
    """The maps of one forward pass, on the network's device and without gradients.

    Attributes:
        step: The number of the forward pass, from 0.
        images: `(n, C, H, W)`, the first images of the batch as the network was given them.
        scales: Where each map was read, the shallowest first; R of them.
        per_scale: For each scale its normalised map `(n, h, w)`, at the layer's own size.
        combined: `(n, H, W)`, their weighted average at the images' size.
        entropy: `(R,)`, how evenly each scale's statistic is spread: `entropy`, over the images.
        drift: `(R,)`, how far each scale's mean map has moved since the last sample: `drift`. None
            for the first.
    """

    step: int
    images: Tensor
    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    entropy: Tensor
    drift: Tensor | None

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(n, R, H, W)`, upsampled to the images' size."""
        size = self.combined.shape[1:]
        return torch.cat([upsample(scale_map, size) for scale_map in self.per_scale], 1)

    @property
    def numbers(self) -> dict[str, dict[str, float]]:
        """Entropy and drift by name of scale; no drift in the first sample."""
        found = {
            scale.name: {"entropy": value}
            for scale, value in zip(self.scales, self.entropy.tolist(), strict=True)
        }
        if self.drift is not None:
            for scale, value in zip(self.scales, self.drift.tolist(), strict=True):
                found[scale.name]["drift"] = value
        return found

    def picture(self) -> Tensor:
        """Return all images as one picture `(3, n H, 4 W)` in [0, 1], a row each.

        A row has the image, the combined map laid over it, which scale spoke (LOVI) and the
        combined map alone. An image is stretched so that its own least value is black and its
        largest white, since what the network was given need not lie in [0, 1]; what has not three
        channels is shown as their mean, in grey. Maps that are not squashed (`normalize="none"`)
        are stretched too, all of the picture by one measure.
        """
        shown = displayed(self.images)
        combined, stacked = within_unit(self.combined.float()), within_unit(self.stacked.float())
        columns = [shown, overlay(shown, combined), lovi(stacked), heatmap(combined)]
        return torch.cat([torch.cat(list(row), 2) for row in zip(*columns, strict=True)], 1)


def displayed(images: Tensor) -> Tensor:
    """Return images `(N, C, H, W)` as RGB `(N, 3, H, W)`, each stretched to [0, 1].

    >>> displayed(torch.tensor([[[[-1.0, 0.0, 1.0]]]]))[0, :, 0].tolist()
    [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]
    """
    images = images.float()
    if images.shape[1] != 3:
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(torch.finfo(images.dtype).tiny)


def within_unit(maps: Tensor) -> Tensor:
    """Return maps in [0, 1]: as they are where they lie there, else stretched as one.

    >>> [within_unit(torch.tensor(maps)).tolist() for maps in ([0.25, 0.5], [1.0, 3.0])]
    [[0.25, 0.5], [0.0, 1.0]]
    """
    low, high = (bound.item() for bound in torch.aminmax(maps))
    if low >= 0 and high <= 1:
        return maps
    return (maps - low) / max(high - low, torch.finfo(maps.dtype).tiny)


def entropy(values: Tensor) -> Tensor:
    r"""Return how evenly a statistic is spread over a map's locations, from 0 to 1.

    $$H = -\frac{1}{\ln L} \sum_{l=1}^{L} p_l \ln p_l, \qquad p_l = s_l \Big/ \sum_m s_m$$

    with `s` the statistic, before it is squashed, of the `L` locations of one map. 1: every
    location holds the same. 0: one location holds all. Of a statistic that gives negative values
    its least value is subtracted first. A map of zeros, and one of a single location, is even: 1.
    This is Shannon's entropy over locations (Pielou's evenness); the paper's are over channels.

    Args:
        values: `(N, h, w)`.

    Returns:
        One number: the mean over the N maps.

    >>> entropy(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])).item()
    0.5
    """
    flat = values.flatten(1).float()
    if flat.shape[1] < 2:
        return flat.new_ones(())
    flat = flat - flat.amin(1, keepdim=True).clamp_max(0)
    # By the largest first: a sum of large values leaves float32's range.
    flat = flat / flat.amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    total = flat.sum(1)
    shares = flat / total.clamp_min(torch.finfo(flat.dtype).tiny)[:, None]
    evenness = torch.special.entr(shares).sum(1) / math.log(flat.shape[1])
    return torch.where(total > 0, evenness, 1.0).mean()


def drift(before: Tensor, now: Tensor) -> Tensor:
    r"""Return how far a scale's mean map has moved between two samples, from 0 to 2.

    $$D = 1 - r(\bar S', \bar S), \qquad \bar S = \tfrac{1}{N} \textstyle\sum_n S_n$$

    with `r` Pearson's correlation over locations and `S_n` the squashed maps of a sample's images.
    0: the places that stood out still do. 1: the two have nothing to do with each other. 2: what
    was bright is dark. On the same images it is the network's change alone; on others it holds the
    images' change too, less so the more images a sample has. Where one of the two is constant there
    is no correlation: 1, or 0 where both are.

    Args:
        before: `(h', w')`, the mean map of the sample before; interpolated where its size differs.
        now: `(h, w)`, the mean map of this one.

    Returns:
        One number.

    >>> bright_left = torch.tensor([[1.0, 0.0]])
    >>> [round(drift(bright_left, now).item(), 6) for now in (bright_left, 1 - bright_left)]
    [0.0, 2.0]
    """
    if before.shape != now.shape:
        before = upsample(before[None], now.shape)[0, 0]
    # In float64, where a map beside itself is 0 to the twelfth digit.
    one, other = (values.flatten().double() - values.double().mean() for values in (before, now))
    lengths = one.norm() * other.norm()
    alike = (one.norm() == 0) & (other.norm() == 0)
    correlation = (one @ other / lengths.masked_fill(lengths == 0, 1)).clamp(-1, 1)
    return torch.where(lengths > 0, 1 - correlation, torch.where(alike, 0.0, 1.0).double()).float()
