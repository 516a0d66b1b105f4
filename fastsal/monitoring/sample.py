"""Samples of watched forward passes: maps, their entropy and drift, and a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastsal.images.colour import heatmap, lovi, overlay
from fastsal.images.planes import Planes, stretched_rgb
from fastsal.maps.resize import upsample
from fastsal.maps.result import described, stacked
from fastsal.networks.scales import Scale


@dataclass(frozen=True, eq=False)
class Sample:
    """The maps of one watched forward pass, on the network's device and without gradients.

    Attributes:
        step (int): The number of the forward pass, from 0.
        images (torch.Tensor): `(n, C, H, W)`, the first images of the batch as the network got
            them; or volumes, or signals.
        scales (tuple of Scale): The scales that were read, the shallowest first; R of them.
        per_scale (tuple of torch.Tensor): The normalised map `(n, h, w)` of every scale, at the
            layer's own size.
        combined (torch.Tensor): `(n, H, W)`, the weighted average of the maps at the images' size.
        entropy (torch.Tensor): `(R,)`, the entropy of each scale's statistic over locations, from 0
            to 1, the mean of the images; see `fastsal.monitoring.sample.entropy`.
        drift (torch.Tensor, optional): `(R,)`, 1 minus the correlation of each scale's mean map
            with that of the last sample; see `fastsal.monitoring.sample.drift`. None in the first
            sample.

    Example:
        >>> from fastsal import watch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        ...     torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.ReLU(),
        ... )
        >>> with watch(net, every=1, layers=["1", "4"]) as w:
        ...     _ = net(torch.rand(4, 3, 8, 8))
        >>> sample = w.latest
        >>> sample.stacked.shape, sample.picture().shape, list(sample.numbers)
        (torch.Size([4, 2, 8, 8]), torch.Size([3, 32, 32]), ['1', '4'])
    """

    step: int
    images: Tensor
    scales: tuple[Scale, ...]
    per_scale: tuple[Tensor, ...]
    combined: Tensor
    entropy: Tensor
    drift: Tensor | None

    def __repr__(self) -> str:
        return described(f"Sample of pass {self.step}", self.combined, self.scales)

    @cached_property
    def stacked(self) -> Tensor:
        """The maps of all scales `(n, R, H, W)`, upsampled to the images' size."""
        return stacked(self.scales, self.per_scale, self.combined)

    @property
    def numbers(self) -> dict[str, dict[str, float]]:
        """Entropy and drift as numbers, by the scale's name; the first sample has no drift."""
        found = {
            scale.name: {"entropy": value}
            for scale, value in zip(self.scales, self.entropy.tolist(), strict=True)
        }
        if self.drift is not None:
            for scale, value in zip(self.scales, self.drift.tolist(), strict=True):
                found[scale.name]["drift"] = value
        return found

    def picture(self) -> Tensor:
        """Return a picture `(3, n H, 4 W)` in [0, 1] with a row for each image.

        A row shows the image, the combined map laid over it, the LOVI picture (the scales in
        colour) and the combined map alone. Each image is stretched so that its smallest value is
        black and its largest white, since a network's input need not lie in [0, 1]; images without
        three channels are shown as the grey mean of their channels. Maps that are not normalised
        (`normalize="none"`) are stretched too, all maps of the picture by the same factor. Of a
        volume the plane across its depth is shown whose map has the largest mean; a signal is a
        strip.
        """
        planes = Planes(self.combined)
        shown = stretched_rgb(planes.of(self.images))
        combined = within_unit(planes.of(self.combined).float())
        stacked = within_unit(planes.of(self.stacked).float())
        columns = [shown, overlay(shown, combined), lovi(stacked), heatmap(combined)]
        return torch.cat([torch.cat(list(row), 2) for row in zip(*columns, strict=True)], 1)


def within_unit(maps: Tensor) -> Tensor:
    """Return maps in [0, 1]: unchanged if all lie there, else stretched together.

    Example:
        >>> [within_unit(torch.tensor(maps)).tolist() for maps in ([0.25, 0.5], [1.0, 3.0])]
        [[0.25, 0.5], [0.0, 1.0]]
    """
    low, high = (bound.item() for bound in torch.aminmax(maps))
    if low >= 0 and high <= 1:
        return maps
    return (maps - low) / max(high - low, torch.finfo(maps.dtype).tiny)


def entropy(values: Tensor) -> Tensor:
    r"""Return the entropy of a statistic over a map's locations, from 0 to 1.

    $$H = -\frac{1}{\ln L} \sum_{l=1}^{L} p_l \ln p_l, \qquad p_l = s_l \Big/ \sum_m s_m$$

    with `s` the statistic of the `L` locations of one map, before normalisation. It is 1 if all
    locations have the same value, 0 if one location has all of it. If a statistic has negative
    values, its smallest value is subtracted first. A map of zeros and a map of one location have
    entropy 1. This is Shannon's entropy over locations (Pielou's evenness); the paper's entropies
    are over channels.

    Args:
        values (torch.Tensor): `(N, h, w)`, the statistic of N images.

    Returns:
        A scalar tensor: the mean over the N maps.

    Example:
        >>> entropy(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]])).item()
        0.5
    """
    flat = values.flatten(1).float()
    if flat.shape[1] < 2:
        return flat.new_ones(())
    flat = flat - flat.amin(1, keepdim=True).clamp_max(0)
    # Divided by the largest value first, since a sum of large values overflows float32.
    flat = flat / flat.amax(1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    total = flat.sum(1)
    shares = flat / total.clamp_min(torch.finfo(flat.dtype).tiny)[:, None]
    evenness = torch.special.entr(shares).sum(1) / math.log(flat.shape[1])
    return torch.where(total > 0, evenness, 1.0).mean()


def drift(before: Tensor, now: Tensor) -> Tensor:
    r"""Return the drift of a scale's mean map between two samples, from 0 to 2.

    $$D = 1 - r(\bar S', \bar S), \qquad \bar S = \tfrac{1}{N} \textstyle\sum_n S_n$$

    with `r` Pearson's correlation over locations and `S_n` the normalised maps of a sample's
    images. It is 0 if the same places are bright, 1 if the maps are uncorrelated, 2 if bright and
    dark are swapped. On the same images it measures the network's change alone; on different images
    it includes their difference, which shrinks as the number of images grows. A constant map has no
    correlation: the drift is then 1, or 0 if both maps are constant.

    Args:
        before (torch.Tensor): `(h', w')`, the mean map of the last sample; it is interpolated if
            its size differs.
        now (torch.Tensor): `(h, w)`, the mean map of this sample.

    Returns:
        A scalar tensor.

    Example:
        >>> bright_left = torch.tensor([[1.0, 0.0]])
        >>> [round(drift(bright_left, now).item(), 6) for now in (bright_left, 1 - bright_left)]
        [0.0, 2.0]
    """
    if before.shape != now.shape:
        before = upsample(before[None], now.shape)[0, 0]
    # In float64 the drift of a map from itself is 0 to the twelfth digit.
    one, other = (values.flatten().double() - values.double().mean() for values in (before, now))
    lengths = one.norm() * other.norm()
    both_constant = (one.norm() == 0) & (other.norm() == 0)
    correlation = (one @ other / lengths.masked_fill(lengths == 0, 1)).clamp(-1, 1)
    return torch.where(
        lengths > 0, 1 - correlation, torch.where(both_constant, 0.0, 1.0).double()
    ).float()
