"""LaFAM: the mean over the channels of the last layer.

Karjauv and Albayrak 2024, "LaFAM: Unsupervised Feature Attribution with Label-Free Activation
Maps", https://arxiv.org/abs/2407.06059. OpenVINO XAI has it as ActivationMap.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from comparisons.budget import Rows
from comparisons.methods.activation_maps.scales import on_scales, uncentred
from comparisons.methods.base import Method
from fastsal import Scale, SMOEScale

__all__ = ["LAFAM"]


def _lafam(model: nn.Module, scales: Sequence[Scale]) -> Rows:
    r"""Build LaFAM of a network's last scale.

    $$L = U\Big(\mathrm{minmax}\Big(\frac{1}{C} \sum_k A_k\Big)\Big)$$

    with `A_k` the channels, minmax each map scaled to [0, 1] and `U` bilinear upsampling.
    Deviations from the paper: activations below 0 count as 0. The paper's networks have none.
    """
    attributor = SMOEScale(model, uncentred(scales)[-1], statistic="mean", normalize="minmax")

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        del target
        maps: Tensor = attributor.attribute(inputs, expand_channels=False)
        return maps[:, 0]

    return explain


LAFAM = Method(
    "lafam",
    "LaFAM",
    "activation",
    "Karjauv and Albayrak 2024",
    {"statistic": "mean", "layer": "last scale", "normalize": "minmax"},
    on_scales(_lafam),
    passes=1,
    gradients=0,
)
