"""Multi-layer FEM: FEM of every scale, averaged.

Bourroux et al. 2022, "Multi Layered Feature Explanation Method for Convolutional Neural Networks",
https://doi.org/10.1007/978-3-031-09037-0_49.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from comparisons.budget import Rows
from comparisons.methods.activation_maps.fem import DEVIATIONS, fem, large_enough
from comparisons.methods.activation_maps.scales import on_scales, uncentred
from comparisons.methods.base import Method
from fastsal import Scale, SMOEScale

__all__ = ["MULTI_LAYER_FEM"]


def _multi_layer_fem(model: nn.Module, scales: Sequence[Scale]) -> Rows:
    r"""Build multi-layer FEM of a network's scales.

    $$L = \frac{1}{R} \sum_r U\big(\mathrm{minmax}(\phi_r)\big)$$

    with the FEM map of each of R scales; scales of fewer than 5 locations, on which FEM is not
    defined, are left out. The paper's idea, not its settings: it fuses FEM of several layers, and
    neither its layers nor its fusion has been compared with these, which are SMOE Scale's layers
    and the mean. The authors publish code for one layer alone.
    """
    attributor = SMOEScale(
        model, uncentred(large_enough(scales)), weights="equal", statistic=fem, normalize="minmax"
    )

    def explain(inputs: Tensor, target: Tensor) -> Tensor:
        del target
        maps: Tensor = attributor.attribute(inputs, expand_channels=False)
        return maps[:, 0]

    return explain


MULTI_LAYER_FEM = Method(
    "ml-fem",
    "Multi-layer FEM",
    "activation",
    "Bourroux et al. 2022",
    {
        "deviations": DEVIATIONS,
        "layers": "scales of 5 locations",
        "weights": "equal",
        "normalize": "minmax",
    },
    on_scales(_multi_layer_fem),
    passes=1,
    gradients=0,
)
