"""The registry of class activation maps: the weights of a layer's channels and locations.

A map is the weighted sum of a layer's channels. To add one, write the function that gives the
weights and decorate it with [`register_cam`][fastsal.cam.register_cam].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsal.registry import Registry

CamFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Cam:
    r"""A class activation map: $\sum_k w_k A_k$ with weights `w` from its function.

    `dataclasses.replace(cam, samples=50)` returns one with other settings.

    Attributes:
        name: The key in the registry.
        citation: The publication that defines it.
        function: Maps activations `(N, C, P)` and derivatives `(orders, N, C, P)` to weights,
            `(N, C, 1)` or `(N, C, P)`, with P the locations of the layer. `derivatives[p - 1]` is
            the gradient of the class's score to the power of p, averaged over the noisy copies.
        orders: The number of powers of the gradient that the function reads; at 0 it reads
            activations alone, the map takes no gradient, and is of no class.
        samples: The number of noisy copies over which the powers are averaged. Each copy takes one
            forward pass, and the image itself takes one more.
        noise: Standard deviation of the noise as a share of each image's own range, its largest
            value less its smallest. At 0 the gradient of the image itself is taken.
        seed: The seed of the noise. All images of a batch get the same noise, scaled to the range
            of each.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> unweighted = Cam("unweighted", "none", lambda values, _: torch.ones_like(values))
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
        >>> unweighted.contributions(activations, activations[None]).sum(1).tolist()
        [[[4.0, 6.0]]]
    """

    name: str
    citation: str
    function: CamFunction
    orders: int = 1
    samples: int = 1
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.orders < 0 or self.samples < 1:
            raise ValueError(
                f"orders and samples of {self.name} must be at least 0 and 1, got {self.orders} "
                f"and {self.samples}"
            )
        if self.noise and not self.orders:
            raise ValueError(
                f"{self.name} takes no gradient that noisy copies could be averaged for; leave out "
                f"noise={self.noise!r}"
            )
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(
                f"the noise of {self.name} is a share of the image's range, 0 or more, got "
                f"{self.noise!r}"
            )

    def contributions(self, activations: Tensor, derivatives: Tensor) -> Tensor:
        """Return every channel's contribution to the map at every location.

        Args:
            activations: `(N, C, ...)`.
            derivatives: `(orders, N, C, ...)`.

        Returns:
            `(N, C, ...)`; its sum over the channels is the map, before the ReLU.

        Raises:
            ValueError: If the function gives weights of another shape.
        """
        located = activations.reshape(*activations.shape[:2], -1)
        weights = self.function(located, derivatives.reshape(-1, *located.shape))
        expected = (*located.shape[:2], 1)
        if weights.shape not in (expected, located.shape):
            raise ValueError(
                f"{self.name} gives weights of shape {tuple(weights.shape)} for activations "
                f"{tuple(located.shape)}, expected {expected} or one for each location"
            )
        return (weights * located).reshape(activations.shape)


CAMS: Registry[Cam] = Registry("class activation map")


def register_cam(
    name: str,
    *,
    citation: str,
    orders: int = 1,
    samples: int = 1,
    noise: float = 0.0,
) -> Callable[[CamFunction], CamFunction]:
    """Register the decorated function under a name, and return the function unchanged.

    Args:
        name: The name by which `FastCAM(cam=name)` finds it.
        citation: The publication that defines it.
        orders: As for `Cam`.
        samples: As for `Cam`.
        noise: As for `Cam`.

    Raises:
        ValueError: If the name is taken.
    """

    def decorate(function: CamFunction) -> CamFunction:
        CAMS.register(name, Cam(name, citation, function, orders, samples, noise))
        return function

    return decorate


def get_cam(cam: str | Cam) -> Cam:
    """Return the class activation map of a name; a `Cam` is returned unchanged.

    Raises:
        ValueError: If the name is not registered; the message lists those that are.

    >>> get_cam("gradcam++").orders
    3
    """
    if isinstance(cam, Cam):
        return cam
    return CAMS[cam]


@register_cam("gradcam", citation="Selvaraju et al. 2017, Eq 1 and 2")
def gradcam_weights(activations: Tensor, derivatives: Tensor) -> Tensor:  # noqa: ARG001
    r"""Return Grad-CAM's weight of every channel: the gradient's mean over the locations.

    $$w_k = \frac{1}{P} \sum_{ij} g_{kij}, \qquad g_{kij} = \frac{\partial S}{\partial A_{kij}}$$

    with `S` the class's score before the softmax and `A` the activations. Deviations from the
    paper: none.

    Args:
        activations: `(N, C, P)`, not read.
        derivatives: `(1 or more, N, C, P)`: the gradient, and further powers that are not read.

    Returns:
        `(N, C, 1)`.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization", Eq 1; the map is Eq 2.

    >>> gradients = torch.tensor([[[1.0, 3.0], [-1.0, -1.0]]])
    >>> gradcam_weights(gradients, gradients[None]).flatten().tolist()
    [2.0, -1.0]
    """
    return derivatives[0].mean(-1, keepdim=True)


@register_cam("gradcam++", citation="Chattopadhay et al. 2018, Eq 7 and 19", orders=3)
@register_cam("smoothgradcam++", citation="Omeiza et al. 2019", orders=3, samples=15, noise=0.15)
def gradcam_plus_plus_weights(activations: Tensor, derivatives: Tensor) -> Tensor:
    r"""Return the weight of every channel in Grad-CAM++, and in Smooth Grad-CAM++.

    $$w_k = \sum_{ij} \alpha_{kij}\, \mathrm{ReLU}(D^1_{kij}), \qquad
      \alpha_{kij} = \frac{D^2_{kij}}{2 D^2_{kij} + \big(\sum_{ab} A_{kab}\big) D^3_{kij}}, \qquad
      D^p_{kij} = \frac{1}{n} \sum_{m=1}^{n} \Big(\frac{\partial S_m}{\partial A_{kij}}\Big)^p$$

    with `A` the image's activations and `S_m` the class's score, before the softmax, of its m-th
    noisy copy. Grad-CAM++ has one term, the image itself. Smooth Grad-CAM++ is the same formula
    with n noisy copies; with one copy and no noise it is Grad-CAM++.

    Grad-CAM++ explains $Y = e^S$, whose p-th derivative is $e^S (\partial S/\partial A)^p$ where
    the network is piecewise linear after the layer; the formula is used for other networks too.
    Deviations from it: the factor $e^S$ is left out. It cancels in alpha and multiplies the whole
    map of an image by one number, which overflows for large scores. Where both terms of alpha are
    0, at a gradient too small to square, alpha is 1/2, its limit; where a negative sum of
    activations cancels the denominator alone, alpha is 0.

    Deviations from Smooth Grad-CAM++: the factors $e^{S_m}$, which differ from copy to copy, are
    left out, so that every copy counts the same and not the most certain alone. The paper prints
    $D^1$ as alpha's numerator; $D^2$ stands there in Grad-CAM++, which the printed form would not
    give back for one copy. The noise is a share of each image's own range, as SmoothGrad has it, so
    that images of any scale can be compared. 15 copies and a noise of 0.15 are this library's
    choice: as many as Hooker et al. 2018 average, and the noise of SmoothGrad's figures.

    Args:
        activations: `(N, C, P)`.
        derivatives: `(3, N, C, P)`, $D^1$ to $D^3$.

    Returns:
        `(N, C, 1)`.

    Reference:
        Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional
        Networks", Eq 7 and 19; Omeiza et al., "Smooth Grad-CAM++: An Enhanced Inference Level
        Visualization Technique for Deep Convolutional Neural Network Models", the three averages.

    >>> activations = torch.tensor([[[1.0, 1.0]]])
    >>> gradients = torch.tensor([[[1.0, 2.0]]])
    >>> derivatives = torch.stack([gradients, gradients**2, gradients**3])
    >>> round(gradcam_plus_plus_weights(activations, derivatives).item(), 4)  # 1/4 + 2/6
    0.5833
    """
    first, second, third = derivatives
    denominator = 2 * second + activations.sum(-1, keepdim=True) * third
    undefined = denominator == 0
    alpha = second / denominator.masked_fill(undefined, 1)
    alpha = torch.where(undefined, 0.5 * (second == 0).to(alpha.dtype), alpha)
    weights: Tensor = (alpha * first.relu()).sum(-1, keepdim=True)
    return weights
