"""The registry of statistics.

A statistic maps activations `(N, C, H, W)` to `(N, H, W)`: the channels of each location become one
value. Volumes `(N, C, D, H, W)` come to it as images of D H rows. A new one is a function decorated
with [`register_statistic`][fastsal.statistics.register_statistic].
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

from torch import Tensor

from fastsal.kernels.constants import EPSILON
from fastsal.registry import Registry

Domain = Literal["post_relu", "pre_relu", "any"]


class StatisticFunction(Protocol):
    """The type of a function `(N, C, H, W) -> (N, H, W)`."""

    def __call__(self, activations: Tensor, /) -> Tensor:
        """Return the statistic of each location."""


@dataclass(frozen=True)
class Statistic:
    """A statistic: a function of activations, with its name and domain.

    Args:
        name (str): The key in the registry.
        citation (str): The publication that defines it.
        domain (str): "post_relu" if it is defined on non-negative activations, "pre_relu" if it is
            defined on activations before the ReLU, "any" if on what a layer gives, of any sign.
        function (Callable): `(N, C, H, W) -> (N, H, W)`. Where an activation is not finite, its
            value should not be finite either: then the layer is named in an error.
        rectifies (bool, optional): True if the function itself counts negative activations as 0.
            Default: False

    Example:
        >>> import torch
        >>> peak = Statistic("peak", "ours", "post_relu", lambda activations: activations.amax(1))
        >>> peak(torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)).item()
        1.0
    """

    name: str
    citation: str
    domain: Domain
    function: StatisticFunction
    rectifies: bool = False

    @property
    def epsilon(self) -> float | None:
        """What the function adds to activations, its parameter of that name; None without one.

        >>> get_statistic("smoe_scale").epsilon
        1e-06
        """
        try:
            parameter = inspect.signature(self.function).parameters.get("epsilon")
        except ValueError:
            # A function of C code can have none.
            return None
        return parameter.default if parameter and isinstance(parameter.default, float) else None

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the statistic `(N, H, W)` of activations `(N, C, H, W)`.

        Args:
            activations: `(N, C, H, W)`; volumes `(N, C, D, H, W)` give `(N, D, H, W)`.

        Raises:
            ValueError: If the function returns another shape or type.

        >>> import torch
        >>> get_statistic("mean")(torch.ones(2, 8, 3, 4, 5)).shape
        torch.Size([2, 3, 4, 5])
        """
        grid = activations.shape[2:]
        if len(grid) > 2:
            as_image = self(activations.flatten(2, -2))
            of_volumes: Tensor = as_image.unflatten(1, grid[:-1])  # type: ignore[no-untyped-call]
            return of_volumes
        values = self.function(activations)
        expected = (activations.shape[0], *grid)
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
    """Register the decorated function as a statistic; the function is returned unchanged.

    Args:
        name (str): The name for `SMOEScale(statistic=name)`.
        citation (str): The publication that defines it.
        domain (str, optional): "post_relu" if it is defined on non-negative activations,
            "pre_relu" if it is defined on activations before the ReLU, "any" if on what a layer
            gives, of any sign. Default: "post_relu"
        rectifies (bool, optional): True if the function itself counts negative activations as 0.
            Default: False

    Returns:
        A decorator.

    Raises:
        ValueError: If the name is taken.

    Example:
        >>> @register_statistic("peak", citation="ours")
        ... def peak(activations):
        ...     return activations.amax(1)
        >>> get_statistic("peak").citation
        'ours'
        >>> del STATISTICS["peak"]
    """

    def decorate(function: StatisticFunction) -> StatisticFunction:
        STATISTICS.register(name, Statistic(name, citation, domain, function, rectifies))
        return function

    return decorate


def get_statistic(statistic: str | Statistic | StatisticFunction) -> Statistic:
    """Return the `Statistic` for a name, a function, or a `Statistic` itself.

    Args:
        statistic: A registered name; a `Statistic`; or a function `(N, C, H, W) -> (N, H, W)`,
            whose domain is "post_relu" unless it was registered with another.

    Raises:
        ValueError: If no statistic has that name; the message lists the names.
        TypeError: If it is neither a name, a `Statistic` nor a function.

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


def with_epsilon(statistic: Statistic, epsilon: float) -> Statistic:
    """Return a statistic that adds another epsilon to each activation.

    Args:
        statistic: The statistic.
        epsilon: Above 0; 1e-6, the paper's, gives the statistic itself.

    Raises:
        ValueError: If epsilon is not above 0, or the statistic has none.

    >>> import torch
    >>> column = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    >>> round(with_epsilon(get_statistic("smoe_scale"), 1e-7)(column).item(), 3)
    5.313
    """
    if not (isinstance(epsilon, (int, float)) and 0 < epsilon < math.inf):
        raise ValueError(f"epsilon must be above 0, got {epsilon!r}")
    if epsilon == EPSILON:
        return statistic
    if statistic.epsilon is None:
        raise ValueError(
            f"statistic {statistic.name!r} has no epsilon, which epsilon={epsilon!r} would change: "
            "leave it out"
        )
    function: Callable[..., Tensor] = statistic.function
    # Every reader takes the statistic as any other function then.
    return replace(statistic, function=partial(function, epsilon=epsilon))
