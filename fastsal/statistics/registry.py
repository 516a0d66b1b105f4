"""The registry of statistics, which reduce the channels of a location to one value.

Each maps activations `(N, C, H, W)` to `(N, H, W)`. A function
decorated with [`register_statistic`][fastsal.statistics.register_statistic] is one more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from fastsal.registry import Registry

Domain = Literal["post_relu", "pre_relu"]


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

    >>> from fastsal.statistics import mean
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
