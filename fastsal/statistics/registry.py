"""Statistics that reduce a layer's channels to one saliency value a location.

Each maps activations `(N, C, H, W)` to `(N, H, W)`. One is added by writing one function and
decorating it with [`register_statistic`][fastsal.statistics.register_statistic].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor

from fastsal.kernels import cpu, cuda
from fastsal.registry import Registry

Domain = Literal["post_relu", "pre_relu"]

# Of four float32 factors below 4e9 and above 1e-9 the product stays a normal float32 number.
GROUP = 4
# About as many elements as a core's cache holds; what is larger goes through in slices. On a GPU,
# where each operation has to be worth its launch, they are larger.
CHUNK_ELEMENTS = 1 << 20
GPU_CHUNK_ELEMENTS = 1 << 24


class StatisticFunction(Protocol):
    """A function `(N, C, H, W) -> (N, H, W)`."""

    def __call__(self, activations: Tensor, /) -> Tensor:
        """Return the statistic of every location."""


@dataclass(frozen=True)
class Statistic:
    """A registered statistic.

    Attributes:
        name: The key in the registry.
        citation: Where it is defined.
        domain: "post_relu" if it is defined on non-negative activations, "pre_relu" if on those
            before the ReLU.
        function: `(N, C, H, W) -> (N, H, W)`.
        rectifies: The function itself counts negative activations as 0.
    """

    name: str
    citation: str
    domain: Domain
    function: StatisticFunction
    rectifies: bool = False

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the statistic `(N, H, W)` of activations `(N, C, H, W)`.

        Raises:
            ValueError: If the function returns anything else; the message names the statistic.
        """
        values = self.function(activations)
        expected = (activations.shape[0], *activations.shape[2:])
        if not isinstance(values, Tensor) or tuple(values.shape) != expected:
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"statistic {self.name!r} gave {got} for activations of shape "
                f"{tuple(activations.shape)}, expected a tensor of shape {expected}: one value a "
                "location"
            )
        return values


STATISTICS: Registry[Statistic] = Registry("statistic")


def register_statistic(
    name: str, *, citation: str, domain: Domain = "post_relu", rectifies: bool = False
) -> Callable[[StatisticFunction], StatisticFunction]:
    """Register the decorated function under a name; the function itself stays as it is.

    Args:
        name: The name by which `SMOEScale(statistic=name)` finds it.
        citation: Where it is defined.
        domain: Which activations it is defined on.
        rectifies: The function itself counts negative activations as 0.

    Raises:
        ValueError: If the name is taken.
    """

    def decorate(function: StatisticFunction) -> StatisticFunction:
        STATISTICS.register(name, Statistic(name, citation, domain, function, rectifies))
        return function

    return decorate


def get_statistic(statistic: str | Statistic | StatisticFunction) -> Statistic:
    """Return the statistic of a name, the one given, or that of a function.

    Args:
        statistic: A registered name; a `Statistic`; or a function `(N, C, H, W) -> (N, H, W)`,
            which counts as defined after the ReLU unless it was registered otherwise.

    Raises:
        ValueError: If no statistic has that name; the message lists those there are.
        TypeError: If it is neither name, `Statistic` nor function.

    >>> get_statistic("smoe_scale").domain, get_statistic(mean).name
    ('post_relu', 'mean')
    """
    if isinstance(statistic, Statistic):
        return statistic
    if callable(statistic):
        for registered in STATISTICS.values():
            if registered.function is statistic:
                return registered
        name = getattr(statistic, "__name__", type(statistic).__name__)
        return Statistic(name, "given by the caller", "post_relu", statistic)
    if not isinstance(statistic, str):
        raise TypeError(
            "a statistic is a name, a Statistic or a function (N, C, H, W) -> (N, H, W), got "
            f"{statistic!r}"
        )
    return STATISTICS[statistic]


@register_statistic(
    "smoe_scale", citation="Mundhenk, Chen & Friedland 2019, Eq 1 and 2", rectifies=True
)
def smoe_scale(activations: Tensor, epsilon: float = cpu.EPSILON) -> Tensor:
    r"""Return the SMOE Scale of every location.

    $$\phi_{ij} = \frac{1}{r} \sum_k \mu_{ij} \log_2 \frac{\mu_{ij}}{T_{ijk}}
                = \mu_{ij} \Big(\log_2 \mu_{ij} - \frac{1}{r} \sum_k \log_2 T_{ijk}\Big)$$

    with `T` the activations plus epsilon, `mu` their mean over the `r = C` channels. It is 0 on a
    column of equal values, never negative, and proportional to the activations (but for epsilon).
    Deviations from the paper: none in value; logarithms are taken of products of channels, and a
    difference of logarithms below float32's resolution counts as 0. One pass over the
    activations does it on a CPU with Numba, and on a GPU with Triton; else `smoe_scale_plain`.

    Args:
        activations: Non-negative `(N, C, H, W)`, of any floating type; computed in float32.
            Negative values count as 0.
        epsilon: Added to every activation, above 0.

    Returns:
        `(N, H, W)`, float32.

    Raises:
        ValueError: If activations are not of four dimensions, or epsilon is not positive.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Eq 1 and 2.

    >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    >>> round(smoe_scale(column).item(), 3)
    0.064
    """
    _check_activations(activations)
    check_epsilon(epsilon)
    forms = cpu if activations.is_cpu else cuda
    values = forms.smoe_scale(activations, epsilon)
    return smoe_scale_plain(activations, epsilon) if values is None else values


def smoe_scale_plain(activations: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return what `smoe_scale` does, by PyTorch's operations alone, on any device.

    >>> column = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    >>> round(smoe_scale_plain(column).item(), 3)
    0.064
    """
    return by_slices(partial(_smoe_scale, epsilon=epsilon), activations)


def _smoe_scale(activations: Tensor, epsilon: float) -> Tensor:
    channels = activations.shape[1]
    # A copy by clamp_min, so that what the network goes on with is never written to.
    shifted = activations.float().clamp_min(0).add_(epsilon)
    mean = shifted.mean(1)
    mean_log = _sum_log2(shifted, epsilon) / channels
    if not torch.isfinite(mean_log).all():
        mean_log = shifted.log2().mean(1)
    if not torch.isfinite(mean).all():
        mean = (shifted / channels).sum(1)
    log_mean = mean.log2()
    difference = log_mean - mean_log
    # What equal values leave behind is rounding, which a later normalisation would amplify.
    rounding = 8 * torch.finfo(torch.float32).eps * (1 + log_mean.abs())
    difference.masked_fill_(difference < rounding, 0)
    return mean * difference


def _sum_log2(shifted: Tensor, epsilon: float) -> Tensor:
    """Sum log2 over the channels, of products of GROUP channels where none can underflow."""
    quarter = shifted.shape[1] // GROUP
    if quarter == 0 or epsilon < 1e-9:
        return shifted.log2().sum(1)
    # Blocks of neighbouring channels: contiguous reads in either memory layout.
    blocks = torch.split(shifted[:, : GROUP * quarter], quarter, 1)
    product = blocks[0] * blocks[1]
    for block in blocks[2:]:
        product.mul_(block)
    total: Tensor = product.log2_().sum(1)
    if shifted.shape[1] > GROUP * quarter:
        total.add_(shifted[:, GROUP * quarter :].log2().sum(1))
    return total


@register_statistic("mean", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def mean(activations: Tensor) -> Tensor:
    """Return the mean over channels.

    Args:
        activations: `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> mean(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item()
    0.75
    """
    _check_activations(activations)
    return activations.float().mean(1)


@register_statistic("std", citation="Mundhenk, Chen & Friedland 2019, Table 1")
def std(activations: Tensor) -> Tensor:
    """Return the (population) standard deviation over channels.

    Args:
        activations: `(N, C, H, W)`, of any floating type; computed in float32.

    Returns:
        `(N, H, W)`, float32.

    >>> std(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item()
    0.25
    """
    return moments(activations)[1]


def by_slices(function: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """Return a function of activations `(N, C, H, W)`, a few images or rows at a time.

    Intermediate copies are then no larger than a core's cache, or 64 MiB on other devices. A
    compiler gets it whole.

    Args:
        function: `(n, C, h, W)` to `(n, h, W)`, or to `(n, any, h, W)`, location by location.
        activations: `(N, C, H, W)`.

    Raises:
        ValueError: If activations are not of four dimensions.
    """
    _check_activations(activations)
    elements = activations.numel()
    chunk_elements = CHUNK_ELEMENTS if activations.is_cpu else GPU_CHUNK_ELEMENTS
    if elements <= chunk_elements or torch.compiler.is_compiling():
        return function(activations)
    images, _, height, _ = activations.shape
    at_once = max(1, images * chunk_elements // elements)
    rows = min(height, max(1, height * images * chunk_elements // elements))
    return torch.cat(
        [
            torch.cat([function(part) for part in torch.split(chunk, rows, 2)], -2)
            if rows < height
            else function(chunk)
            for chunk in torch.split(activations, at_once)
        ]
    )


def scale_by_peak(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns `(N, C, H, W)` over a power of two, and that power `(N, 1, H, W)`.

    The largest magnitude of a column is then from 1 to 2 (0 where it was), so that no sum or
    square leaves float32's range; dividing by a power of two rounds nothing.
    """
    peak = values.abs().amax(1, keepdim=True)
    # The exponent's bits of a float32 number are a power of two.
    power = (peak.view(torch.int32) & 0x7F800000).view(torch.float32)
    power = power.clamp_min(torch.finfo(torch.float32).tiny)
    return values / power, power


def moments(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the (population) standard deviation over channels, `(N, H, W)` each.

    In float32; the deviation of a constant column is exactly 0, whatever its size.
    """

    def stacked(part: Tensor) -> Tensor:
        scaled, power = scale_by_peak(part.float())
        deviation, mean = torch.std_mean(scaled, 1, correction=0)
        return torch.stack((mean, deviation), 1).mul_(power)

    mean, deviation = by_slices(stacked, activations).unbind(1)
    return mean, deviation


def _check_activations(activations: Tensor) -> None:
    if activations.dim() != 4:
        raise ValueError(
            f"expected activations of shape (N, C, H, W), got {tuple(activations.shape)}"
        )


def check_epsilon(epsilon: float) -> None:
    """Raise if what keeps logarithms finite is not above 0.

    Raises:
        ValueError: Naming it.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")
