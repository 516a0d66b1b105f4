"""Gradients for the part of a network after one layer, in any gradient mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from fastsal.arguments.call import Call
from fastsal.arguments.copies import copied
from fastsal.networks.hooks import Tap, forward, joined
from fastsal.networks.state import LayerError, evaluating, root_module

Result = TypeVar("Result")

_NO_GRADIENT = (
    "the score has no gradient by the CAM's layer: it must depend on it, and the model's forward "
    "must not run under no_grad, inference_mode or detach after that layer"
)
# By network: True if it switches gradients on itself, False if its first pass did not.
_switching: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class NoGradientError(LayerError):
    """The error of a score without a gradient by the layer."""


class GradientSource:
    """A tap's `replace` at which the gradient starts: the part before its layer needs none.

    Args:
        rectify: Applies the ReLU that the network applies next as a function.

    Attributes:
        found_enabled: True if gradients were on already when the layer ran.
    """

    def __init__(self, rectify: bool = False) -> None:
        self.rectify = rectify
        self.leaves: dict[torch.device, Tensor] = {}
        self.found_enabled = False

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor that goes on through the network and requires gradients."""
        self.found_enabled = self.found_enabled or torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        leaf = (tensor.relu() if self.rectify else tensor).detach().requires_grad_()
        self.leaves[tensor.device] = leaf
        if self.rectify:
            # The network's own ReLU comes next; at exactly 0 it would pass no gradient.
            return leaf + torch.finfo(leaf.dtype).tiny
        # The network may write to it in place, which a leaf forbids.
        return leaf.clone()

    def activations(self, device_ids: Sequence[int] | None = None) -> Tensor:
        """Return the layer's tensor, joined from several devices in their order."""
        return joined(self.leaves, device_ids).detach()

    def check(self, score: Tensor) -> None:
        """Raise if a score has no gradient.

        Raises:
            NoGradientError: As `gradients` does.
        """
        if not score.requires_grad:
            raise NoGradientError(_NO_GRADIENT)

    def gradients(
        self,
        score: Tensor | GradientEdge,
        of_score: Tensor | None = None,
        device_ids: Sequence[int] | None = None,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's tensor and the gradient of a score by it.

        Args:
            score: The score, a scalar, or the place in its graph where the backward pass starts.
            of_score: The gradient of the score there.
            device_ids: The order of the devices.
            grad_kwargs: Further arguments of `torch.autograd.grad`.

        Raises:
            NoGradientError: A LayerError, if the score does not depend on the layer, or the model
                stopped gradients.
        """
        (pair,) = gradients_of([self], score, of_score, device_ids, grad_kwargs)
        return pair


def gradients_of(
    sources: Sequence[GradientSource],
    score: Tensor | GradientEdge,
    of_score: Tensor | None = None,
    device_ids: Sequence[int] | None = None,
    grad_kwargs: Mapping[str, Any] | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Return the tensor of each source and the gradient of a score by it.

    Args:
        sources: One for each layer.
        score: The score, a scalar, or the place in its graph where the backward pass starts.
        of_score: The gradient of the score there.
        device_ids: The order of the devices.
        grad_kwargs: Further arguments of `torch.autograd.grad`.

    Raises:
        NoGradientError: As `GradientSource.gradients` does.
    """
    leaves = [leaf for source in sources for leaf in source.leaves.values()]
    try:
        gradients = torch.autograd.grad(score, leaves, of_score, **(grad_kwargs or {}))
        if any(gradient is None for gradient in gradients):
            raise RuntimeError("allow_unused gave None; materialize_grads gives 0 for it")
    except RuntimeError as error:
        raise NoGradientError(f"{_NO_GRADIENT} ({error})") from error
    remaining = iter(gradients)
    return [
        (
            source.activations(device_ids),
            joined({device: next(remaining) for device in source.leaves}, device_ids),
        )
        for source in sources
    ]


def before_classes(output: Any) -> tuple[GradientEdge, Tensor] | None:
    """Return the features and the weights of the linear layer that made a model's output.

    The gradient of one class's score by the features is one row of the weights. PyTorch multiplies
    all rows by a vector that is 0 but for this class, and so reads the whole matrix: for a small
    network on a CPU that is a large part of the backward pass.

    Args:
        output: The model's output.

    Returns:
        The features' place in the graph, and the weights `(classes, features)`; None if no linear
        layer made the output, or it has other gradients.

    Example:
        >>> layer, features = nn.Linear(3, 2), torch.ones(1, 3, requires_grad=True)
        >>> edge, weights = before_classes(layer(features))
        >>> torch.equal(torch.autograd.grad(edge, features, weights[1:])[0], layer.weight[1:])
        True
    """
    linear: Any = None
    if isinstance(output, Tensor) and not output._backward_hooks:
        linear = output.grad_fn
    if linear is None or linear.name() != "AddmmBackward0" or linear._saved_alpha != 1:
        return None
    (bias, _), (features, index), (weight, _) = linear.next_functions
    if features is None or not all(map(_is_parameter, (bias, weight))):
        return None
    return GradientEdge(features, index), linear._saved_mat2.detach().T


def _is_parameter(node: Any) -> bool:
    """Return True for a node of a parameter, or of one that is transposed."""
    if node is not None and node.name() == "TBackward0":
        ((node, _),) = node.next_functions
    return node is None or node.name() == "torch::autograd::AccumulateGrad"


def gradient_pass(
    call: Call,
    make_tap: Callable[[GradientSource], Tap],
    use: Callable[[GradientSource, Any], Result],
    *,
    rectify: bool = False,
    taps: Sequence[Tap] = (),
) -> tuple[Result, list[Tensor]]:
    """Run a model once, with gradients for the part after one layer alone.

    The model is put back when the gradients have been taken, since they need what the pass left.

    A model that runs the layer inside `torch.enable_grad` leaves that block with gradients off, as
    they were before it. Then a second pass, on copies of the inputs, has gradients from its start;
    further calls of that model have one such pass.

    Args:
        call: The model with its inputs.
        make_tap: Returns the tap on the layer, whose `replace` is the source.
        use: Called with the source and the model's output; it takes the gradients.
        rectify: As for `GradientSource`.
        taps: Further places that are read.

    Returns:
        What `use` returned, and the value of each further tap.

    Raises:
        LayerError: If the score has no gradient by the layer, or the model was made under
            inference mode.
    """
    root = root_module(call.forward_func)
    switches = None if root is None else _switching.get(root)
    with torch.inference_mode(False), torch.no_grad():
        arguments = outside_inference((call.inputs, call.additional_forward_args))
        # The first pass may write to its inputs.
        spare = copied(arguments) if switches is None else None

    def once(arguments: Any, source: GradientSource, from_start: bool) -> Any:
        with gradients_after_source(call.forward_func, from_start), evaluating(root):
            inputs, further = arguments
            output, values = forward(
                call.forward_func, inputs, further, [*taps, make_tap(source)], call.device_ids
            )
            return use(source, output), values[:-1]

    source = GradientSource(rectify)
    try:
        result = once(arguments, source, switches is True)
    except NoGradientError:
        if switches or not source.found_enabled:
            raise
        if root is not None:
            _switching[root] = True
        if spare is None:
            raise
        result = once(spare, GradientSource(rectify), True)
    else:
        if root is not None:
            _switching.setdefault(root, False)
    return result  # type: ignore[no-any-return]


@contextmanager
def gradients_after_source(
    forward_func: Callable[..., Any], from_start: bool = False
) -> Iterator[None]:
    """Switch off gradients and inference mode, until a `GradientSource` switches gradients on.

    Both modes are restored on the way out. `DataParallel` joins its outputs in this thread, where
    the switch in its copies' threads has no effect: with it gradients are on from the start.

    Args:
        forward_func: The model.
        from_start: Leaves gradients on from the start.

    Raises:
        LayerError: If the model itself was made under inference mode.
    """
    parallel = isinstance(forward_func, nn.DataParallel)
    with torch.inference_mode(False), torch.set_grad_enabled(parallel or from_start):
        try:
            yield
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise LayerError(
                "the model's parameters, or tensors it keeps, were made under inference_mode and "
                "have no gradients; make or load the model outside it"
            ) from error


def outside_inference(value: Any) -> Any:
    """Return copies that autograd can save of tensors made under inference mode.

    It is called outside inference mode. The items of a tuple are copied likewise; anything else is
    returned unchanged.
    """
    if isinstance(value, tuple):
        return tuple(outside_inference(item) for item in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
