"""Guided Backprop through every rectifier of a network, as a Captum attribution class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from captum._utils.common import _run_forward
from captum.attr._utils.attribution import GradientAttribution
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

__all__ = ["GuidedBackprop", "NoRectifierError"]

# Functions that may write over a view of another tensor.
_RECTIFIERS = frozenset(
    """relu relu_ relu6 hardtanh hardtanh_ clamp clamp_ clip clip_ clamp_min clamp_min_ threshold
    threshold_""".split()  # noqa: SIM905
)
# Functions that rectify where their mask is the sign of what they read.
_MASKS = frozenset("where masked_fill masked_fill_ mul mul_ multiply __mul__ __rmul__".split())  # noqa: SIM905
_WEIGHTS = ("convolution", "mm", "mv")


class NoRectifierError(ValueError):
    """A network without rectifiers, whose guided gradient would be its plain gradient."""


class GuidedBackprop(GradientAttribution):  # type: ignore[misc]
    r"""The gradient of a score by the images, with negative gradients cut at each rectifier.

    $$R_{l} = \mathbb{1}[x_l > 0]\; \mathrm{ReLU}(R_{l+1})$$

    at each rectifier, with `x_l` its input and `R` the gradient that goes back; elsewhere `R` is
    the gradient. A rectifier is $\max(x, 0)$, cut at a larger number or not, however it is
    written: `nn.ReLU`, `F.relu`, `ReLU6`, `hardtanh` and `clamp` from 0, `threshold` at 0, the
    larger of `x` and 0, `x` times the mask `x > 0`. It is found in autograd's graph of the score,
    where Captum's class of the same name looks for `nn.ReLU` modules. Further deviations from that
    class: where the input of a rectifier goes elsewhere too, only the gradient through the
    rectifier is cut; a `clamp` of the images themselves, before any weights, is no rectifier.
    Leaky and smooth functions (ELU, GELU, SiLU, hardswish) are not guided.

    Args:
        model: The network.

    Reference:
        Springenberg et al., "Striving for Simplicity: The All Convolutional Net", section 3.4,
        https://arxiv.org/abs/1412.6806

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU6())
    >>> _ = net[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    >>> GuidedBackprop(net).attribute(torch.tensor([[3.0, -2.0]]), lambda scores: -scores.sum(1))
    tensor([[0., 0.]])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def attribute(
        self, inputs: Tensor, target: Any = None, additional_forward_args: object = None
    ) -> Tensor:
        """Return the guided gradient.

        Args:
            inputs: `(N, ...)`.
            target: As in Captum; a callable of the output too.
            additional_forward_args: As in Captum.

        Returns:
            In the shape of the inputs.

        Raises:
            NoRectifierError: A ValueError. If the score goes through no rectifier.
        """
        with torch.enable_grad():
            images = inputs.detach().requires_grad_()
            with _Plain():
                # The network may write over its input, which a leaf forbids.
                forward, given = self.forward_func, images.clone()
                if callable(target):
                    scores = target(_run_forward(forward, given, None, additional_forward_args))
                else:
                    scores = _run_forward(forward, given, target, additional_forward_args)
            rectifiers = list(_rectifiers(scores.grad_fn))
            if not rectifiers:
                raise NoRectifierError(
                    f"Guided Backprop of {type(self.forward_func).__name__} would be its plain "
                    "gradient: the network has no rectifier (ReLU, ReLU6, clamp from 0) that "
                    "autograd sees; leave guided-backprop and the guided class activation maps "
                    "out of --methods"
                )
            for node in rectifiers:
                node.register_hook(_positive)
            (gradient,) = torch.autograd.grad(torch.unbind(scores.reshape(-1)), images)
        return gradient


def _positive(
    gradients: tuple[Tensor | None, ...], _: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    return tuple(None if gradient is None else gradient.relu() for gradient in gradients)


class _Plain(TorchFunctionMode):
    """A mode under which rectifiers leave nodes of their own in autograd's graph.

    Written over a view, or as a mask, their node would be hidden or be that of any product.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, or the same rectifier in another form."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]
        first = args[0] if args else None
        if name in _RECTIFIERS and isinstance(first, Tensor) and first.requires_grad:
            if not first._is_view():
                return func(*args, **kwargs)
            copy = first.clone()
            result = func(copy, *args[1:], **kwargs)
            return first.copy_(copy) if result is copy else result
        rectified = _rectified((*args, *kwargs.values())) if name in _MASKS else None
        result = func(*args, **kwargs)
        if rectified is None or not (isinstance(result, Tensor) and torch.equal(result, rectified)):
            return result
        return (
            first.copy_(rectified) if isinstance(first, Tensor) and result is first else rectified
        )


def _rectified(given: tuple[Any, ...]) -> Tensor | None:
    """Return the rectified form of the one tensor of a product that depends on the images."""
    tracked = [value for value in given if isinstance(value, Tensor) and value.requires_grad]
    # Without a negative number a product by 1 could not be told from a rectifier.
    return tracked[0].relu() if len(tracked) == 1 and (tracked[0] < 0).any() else None


def _rectifiers(end: Node | None) -> Iterator[Node]:
    """Yield the nodes of a graph that are rectifiers."""
    weighted: dict[Node, bool] = {}
    todo = [] if end is None else [end]
    while todo:
        node = todo[-1]
        sources = [source for source, _ in node.next_functions if source is not None]
        unseen = [source for source in sources if source not in weighted]
        if unseen:
            todo += unseen
            continue
        todo.pop()
        if node in weighted:
            continue
        after_weights = any(weighted[source] for source in sources)
        kind = node.name().lower()
        weighted[node] = after_weights or any(word in kind for word in _WEIGHTS)
        if _rectifies(node, kind) and (after_weights or not kind.startswith(("clamp", "hardtanh"))):
            yield node


def _rectifies(node: Any, kind: str) -> bool:
    """Return True if a node gives 0 for negative numbers and passes on positive ones."""
    if kind.startswith("relubackward"):
        return True
    if kind.startswith("hardtanhbackward"):
        return bool(node._saved_min_val == 0)
    if kind.startswith("thresholdbackward"):
        return bool(node._saved_threshold == 0)
    if kind.startswith(("clampbackward", "clampminbackward")):
        return _is_zero(node._saved_min)
    if kind.startswith(("maximumbackward", "fmaxbackward")):
        return _is_zero(node._saved_other) or _is_zero(node._saved_self)
    if kind.startswith("leakyrelubackward"):
        return bool(node._saved_negative_slope == 0)
    return False


def _is_zero(bound: Any) -> bool:
    if isinstance(bound, Tensor):
        return not bound.any()
    return bound is not None and bool(bound == 0)
