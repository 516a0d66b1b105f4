"""Make samples of forward passes that were read."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsal.arguments.inputs import without_row
from fastsal.maps.normalization import each_map, get_normalization
from fastsal.monitoring.passes import Pass
from fastsal.monitoring.sample import Sample, drift, entropy


class NotFiniteError(ValueError):
    """Activations that are not finite, as where a loss scale was too large."""


class Sampler:
    """Makes the samples of one watched model, each with its drift from the one before.

    Args:
        normalize: The normalisation of each map, as for `SMOEScale`.

    Raises:
        ValueError: If there is no such normalisation.
    """

    def __init__(self, normalize: str) -> None:
        self._normalization = get_normalization(normalize)
        # Each scale's mean map in the last sample.
        self._mean_maps: list[Tensor] = []

    def sample(self, ended: Pass) -> Sample:
        """Return the sample of a pass that was read.

        Raises:
            NotFiniteError: A ValueError, if activations are not finite.
            Exception: Any error that the statistic or the reader raised during the pass.
        """
        view, values = ended.chosen()
        with torch.no_grad():
            if not torch.stack([one.sum() for one in values]).isfinite().all():
                raise NotFiniteError("activations are not finite")
            entropies = torch.stack([entropy(one) for one in values])
            maps = [each_map(self._normalization, one) for one in values]
            means = [one.mean(0) for one in maps]
            drifts = None
            if self._mean_maps:
                pairs = zip(self._mean_maps, means, strict=True)
                drifts = torch.stack([drift(before.to(now.device), now) for before, now in pairs])
            self._mean_maps = means
            return Sample(
                step=ended.step,
                images=view.images,
                scales=view.reader.scales,
                per_scale=tuple(without_row(one, view.images) for one in maps),
                combined=without_row(view.reader.combined(maps), view.images),
                entropy=entropies,
                drift=drifts,
            )
