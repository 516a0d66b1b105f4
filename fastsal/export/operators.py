"""The steps of a map on a CPU where nothing is exported: eager, and inside `torch.compile`.

An eager pass runs the kernels that `SMOEScale` runs. In a compiled one the statistic is one
reduction over the channels, which the compiler makes one loop of; an operator that it cannot look
into would be called from Python for each scale, between two layers, and that takes longer than the
loop. The maps' kernel is such an operator, once a pass: the compiler's own code for maps that are
upsampled takes several times as long. An exported program has neither, since it runs where fastsal
is not installed: there the forms of `fastsal.export.graph_forms` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastsal.export.graph_forms import LEAST_EPSILON, GraphForm, Reading, smoe_of_means
from fastsal.kernels import cpu
from fastsal.maps.combination import combine
from fastsal.maps.normalization import gaussian
from fastsal.statistics.slices import rectified
from fastsal.statistics.smoe import GROUP

_LIBRARY: Any = torch.library.Library("fastsal", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "combined_maps(Tensor[] statistics, float[] shares, SymInt height, SymInt width) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@dataclass(frozen=True)
class KernelForm(GraphForm):
    """The form of SMOE Scale that runs a kernel where one can run.

    Attributes:
        epsilon: Added to each activation.

    Example:
        >>> from fastsal.export.graph_forms import smoe_of_sums, smoe_sums
        >>> form = KernelForm(smoe_sums, smoe_of_sums, rectified=True, linear=False, epsilon=1e-6)
        >>> reading = form(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1))
        >>> reading.shape if cpu.available() else reading.size
        torch.Size([1, 1, 1])
    """

    epsilon: float

    def __call__(self, activations: Tensor) -> Reading | Tensor:
        """Return the statistic `(N, h, w)`, of which a factor may be left out, or the sums."""
        grid = activations.shape[2:]
        activations = self.centred(activations)
        # A kernel sees the slices of a volume as rows of one image.
        values = cpu.smoe_scale(activations.flatten(2, -2), self.epsilon)
        if values is not None:
            return values.reshape(-1, *grid)
        if _compiled_on_cpu(activations):
            activations = activations.float()
            return reduced_smoe_scale(
                activations if self.rectified else rectified(activations), self.epsilon
            )
        return self.reading(activations)


def reduced_smoe_scale(activations: Tensor, epsilon: float) -> Tensor:
    r"""Return SMOE Scale in nats, `(N, h, w)`, by reductions over the channels alone.

    $$\mu\,\Big(\ln\mu - \frac{1}{C} \sum_{j} \ln \prod_{i=0}^{3} x_{j + iC/4}\Big)$$

    with x the activations plus epsilon and mu their mean: one logarithm serves four channels.

    Args:
        activations: `(N, C, h, w)`, not negative.
        epsilon: Added to each activation.

    Example:
        >>> bits = reduced_smoe_scale(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1), 1e-6) / 0.6931
        >>> round(bits.item(), 3)
        0.064
    """
    channels = activations.shape[1]
    shifted = activations + epsilon
    quarter = channels // GROUP if epsilon >= LEAST_EPSILON else 0
    a, b, c, d, rest = torch.split(shifted, [quarter] * GROUP + [channels - GROUP * quarter], 1)
    logarithms = ((a * b) * (c * d)).log().sum(1) + rest.log().sum(1)
    mean = shifted.mean(1)
    return smoe_of_means(mean, logarithms / channels)


def combined_maps(
    statistics: Sequence[Tensor], shares: Sequence[float], size: Sequence[int]
) -> list[Tensor] | None:
    """Return the combined map `(N, H, W)` and the normalised map of every scale, by kernels.

    Args:
        statistics: `(N, h, w)` of each scale.
        shares: The weights of the scales, which sum to 1.
        size: (H, W).

    Returns:
        None where no kernel can run, and for volumes.

    Example:
        >>> maps = combined_maps([torch.rand(1, 4, 4), torch.rand(1, 2, 2)], [0.5, 0.5], (8, 8))
        >>> maps is None or [tuple(one.shape) for one in maps]
        [(1, 8, 8), (1, 4, 4), (1, 2, 2)]
    """
    if len(size) > 2:
        return None
    if all(map(cpu.readable, statistics)):
        return _combined_maps(statistics, shares, *size)
    if all(map(_compiled_on_cpu, statistics)):
        maps: list[Tensor] = torch.ops.fastsal.combined_maps(statistics, shares, *size)
        return maps
    return None


def _compiled_on_cpu(tensor: Tensor) -> bool:
    return torch.compiler.is_compiling() and not _exporting() and tensor.is_cpu and _has_kernels()


def _exporting() -> bool:
    # torch 2.6 does not tell an export from a compilation.
    return not hasattr(torch.compiler, "is_exporting") or torch.compiler.is_exporting()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_kernels() -> bool:
    return cpu.available()


def _combined_maps(
    statistics: Sequence[Tensor], shares: Sequence[float], height: int, width: int
) -> list[Tensor]:
    normalized = [gaussian(values) for values in statistics]
    return [combine(normalized, shares, (height, width)), *normalized]


def _combined_maps_of_nothing(
    statistics: Sequence[Tensor],
    _: Sequence[float],
    height: int,
    width: int,
) -> list[Tensor]:
    combined = statistics[0].new_empty((statistics[0].shape[0], height, width))
    return [combined, *map(torch.empty_like, statistics)]


_LIBRARY.impl("combined_maps", _combined_maps, "CPU")
torch.library.register_fake("fastsal::combined_maps", _combined_maps_of_nothing)
