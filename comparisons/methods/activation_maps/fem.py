"""FEM: the activations that stand out in their channel, counted by their channel's mean.

Fuad et al. 2020, "Features Understanding in 3D CNNs for Actions Recognition in Video",
https://doi.org/10.1109/IPTA50016.2020.9286629.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from comparisons.budget import Rows
from comparisons.methods.activation_maps.scales import on_scales, uncentred
from comparisons.methods.base import Method
from fastsal import Scale, SMOEScale

__all__ = ["DEVIATIONS", "FEM", "fem", "large_enough"]

# Standard deviations above its channel's mean from which an activation counts.
DEVIATIONS = 2.0
# Of P numbers none is further above their mean than sqrt(P - 1) standard deviations.
FEWEST_LOCATIONS = 5


def fem(activations: Tensor) -> Tensor:
    r"""Return FEM's value of every location.

    $$\phi_{ij} = \sum_k \mu_k\, \big[A_{kij} \ge \mu_k + 2 \sigma_k\big]$$

    with the mean and the standard deviation of channel `k` over its locations. Deviations from the
    paper: none; like xplique's `Fem`. pytorch-grad-cam's `FEM` takes the share of locations that
    stand out in the place of the channel's mean, and the activation itself in the place of 1.

    Args:
        activations: `(N, C, H, W)`.

    Returns:
        `(N, H, W)`.

    >>> import torch
    >>> fem(torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 0.0, 6.0]]]])).tolist()
    [[[0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]]
    """
    values = activations.float().flatten(2)
    mean = values.mean(2, keepdim=True)
    deviation = values.std(2, correction=0, keepdim=True)
    outstanding = values >= mean + DEVIATIONS * deviation
    return (outstanding * mean).sum(1).reshape(activations[:, 0].shape)


def large_enough(scales: Sequence[Scale]) -> list[Scale]:
    """Return the scales of 5 locations or more, on which FEM is defined.

    Args:
        scales: of a network.

    Raises:
        ValueError: there is none.
    """
    large = [
        scale
        for scale in scales
        if prod(scale.layout.sizes(scale.shape)) >= FEWEST_LOCATIONS * scale.shape[0]
    ]
    if not large:
        raise ValueError(
            f"FEM needs a scale of at least {FEWEST_LOCATIONS} locations, and scales "
            f"{', '.join(scale.name for scale in scales)} have fewer: take larger images"
        )
    return large


def _fem(model: nn.Module, scales: Sequence[Scale]) -> Rows:
    """Build FEM of a network's last scale of 5 locations, scaled to [0, 1] and upsampled."""
    attributor = SMOEScale(
        model, uncentred(large_enough(scales))[-1], statistic=fem, normalize="minmax"
    )

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        del target
        maps: Tensor = attributor.attribute(inputs, expand_channels=False)
        return maps[:, 0]

    return explain


FEM = Method(
    "fem",
    "FEM",
    "activation",
    "Fuad et al. 2020",
    {"deviations": DEVIATIONS, "layer": "last scale of 5 locations", "normalize": "minmax"},
    on_scales(_fem),
    passes=1,
    gradients=0,
)
