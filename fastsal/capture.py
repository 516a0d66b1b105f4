"""Reading layers during one forward pass, and leaving the model as it was.

This module alone touches hooks, training mode and the compiler's stance.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

ForwardFunction = Callable[..., Any]


class LayerError(ValueError):
    """A layer that cannot be read; the message names it and says why."""


@dataclass(frozen=True)
class Tap:
    """A place in the network that is read as the forward pass goes by.

    Attributes:
        name: The layer's name, for messages.
        module: The layer.
        read: Called with the layer's tensor; what it returns is kept, the tensor is not.
        call: Which call of the module is read, from 0; None reads the last.
        layer_input: Reads the module's input in place of its output.
        replace: Called with the layer's tensor after `read`; what it returns goes on in its place.
    """

    name: str
    module: nn.Module
    read: Callable[[Tensor], Tensor]
    call: int | None = None
    layer_input: bool = False
    replace: Callable[[Tensor], Tensor] | None = None


def root_module(forward_func: ForwardFunction) -> nn.Module | None:
    """Return the module under a forward function, or None where there is none to be seen.

    A compiled module gives the module it was made from, a `DataParallel` the one it copies, a
    bound method of a module that module.

    >>> root_module(nn.ReLU().forward)
    ReLU()
    """
    owner = getattr(forward_func, "__self__", forward_func)
    if not isinstance(owner, nn.Module):
        return None
    owner = uncompiled(owner)
    if isinstance(owner, nn.DataParallel):
        owner = uncompiled(owner.module)
    return owner


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` was given, or the module itself."""
    original = getattr(module, "_orig_mod", module)
    return original if isinstance(original, nn.Module) else module


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Put every submodule into evaluation mode, and each back as it was on the way out.

    The flags are set one by one: `train()` would override submodules that were kept in evaluation
    mode, or that define it otherwise. In evaluation mode no BatchNorm updates its buffers.
    """
    training = [] if module is None else [part for part in module.modules() if part.training]
    try:
        for part in training:
            part.training = False
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Any], bool]]) -> Iterator[None]:
    """Hold forward hooks on modules, given as (module, hook, on the input)."""
    with ExitStack() as stack:
        for module, hook, on_input in hooks:
            if on_input:
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                handle = module.register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


@contextmanager
def eager(module: nn.Module | None) -> Iterator[None]:
    """Run compiled parts as plain Python: a compiled module never calls hooks set afterwards."""
    compiled = module is not None and any(
        uncompiled(part) is not part or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )
    set_stance = getattr(torch.compiler, "set_stance", None)
    if compiled and set_stance is not None:
        with set_stance("force_eager"):
            yield
    else:
        yield


def forward(
    forward_func: ForwardFunction,
    inputs: tuple[Tensor, ...],
    additional_forward_args: object = None,
    taps: Sequence[Tap] = (),
    device_ids: Sequence[int] | None = None,
) -> tuple[Any, list[Tensor]]:
    """Run one forward pass and read the taps on the way.

    Args:
        forward_func: The model, or any callable that runs it.
        inputs: The model's tensors.
        additional_forward_args: Further arguments: one, or a tuple of them, or None.
        taps: What is read.
        device_ids: The order of the devices over which a `DataParallel` model splits a batch.

    Returns:
        The model's output and what each tap's `read` returned, in their order.

    Raises:
        LayerError: If a layer did not run, or does not give one tensor.
    """
    if isinstance(forward_func, nn.Module):
        forward_func = uncompiled(forward_func)
    root = root_module(forward_func)
    readings = [_Reading(tap) for tap in taps]
    hooks = [
        (tap.module, reading, tap.layer_input) for tap, reading in zip(taps, readings, strict=True)
    ]
    with evaluating(root), eager(root), hooked(hooks):
        output = forward_func(*inputs, *as_arguments(additional_forward_args))
    if device_ids is None:
        device_ids = getattr(forward_func, "device_ids", None)
    return output, [reading.gathered(device_ids) for reading in readings]


def as_arguments(additional_forward_args: object) -> tuple[object, ...]:
    """Return Captum's additional forward arguments as a tuple."""
    if additional_forward_args is None:
        return ()
    if isinstance(additional_forward_args, tuple):
        return additional_forward_args
    return (additional_forward_args,)


class _Reading:
    """The hook of one tap; `DataParallel` calls it from one thread for each device."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self.lock = threading.Lock()
        self.calls: dict[torch.device, int] = {}
        self.values: dict[torch.device, Tensor] = {}

    def __call__(self, _: nn.Module, args: Any, other: Any) -> Any:
        """Read the tensor: a pre-hook's `other` is the keyword arguments, a hook's the output."""
        tap = self.tap
        source = (*args, *other.values()) if tap.layer_input else other
        tensor = only_tensor(source, tap.name)
        with self.lock:
            call = self.calls.get(tensor.device, 0)
            self.calls[tensor.device] = call + 1
        if tap.call is not None and call != tap.call:
            return None
        value = tap.read(tensor)
        with self.lock:
            self.values[tensor.device] = value
        if tap.replace is None:
            return None
        return _exchange(args, other, source, tensor, tap.replace(tensor), tap.layer_input)

    def gathered(self, device_ids: Sequence[int] | None) -> Tensor:
        """Return the value, of several devices joined on the first."""
        if not self.values:
            calls = max(self.calls.values(), default=0)
            raise LayerError(
                f"layer {self.tap.name!r} did not run; if the model is compiled, give the module "
                "itself and not a function around it"
                if calls == 0
                else f"layer {self.tap.name!r} ran {calls} time(s), so that there is no call "
                f"{self.tap.call} (from 0) to read"
            )
        return joined(self.values, device_ids)


class GradientSource:
    """A tap's `replace`: the gradient starts at its layer, and what comes before needs none."""

    def __init__(self, rectify: bool = False) -> None:
        self.rectify = rectify
        self.leaves: dict[torch.device, Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor that goes on through the network, with gradients from here on."""
        torch.set_grad_enabled(True)
        leaf = (tensor.relu() if self.rectify else tensor).detach().requires_grad_()
        self.leaves[tensor.device] = leaf
        if self.rectify:
            # The network's own ReLU comes next; at exactly 0 it would let no gradient through.
            return leaf + torch.finfo(leaf.dtype).tiny
        # The network may write to it in place, which a leaf forbids.
        return leaf.clone()

    def gradients(
        self, score: Tensor, device_ids: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's tensor and the gradient of a score by it.

        Raises:
            LayerError: If the score does not depend on the layer, or the model stopped gradients.
        """
        leaves = list(self.leaves.values())
        try:
            gradients = torch.autograd.grad(score, leaves)
        except RuntimeError as error:
            raise LayerError(
                "the score has no gradient by the CAM's layer: it must depend on it, and the "
                "model's forward must not run under no_grad, inference_mode or detach after that "
                f"layer ({error})"
            ) from error
        by_device = dict(zip(self.leaves, gradients, strict=True))
        return joined(self.leaves, device_ids).detach(), joined(by_device, device_ids)


@contextmanager
def gradients_after_source(forward_func: ForwardFunction) -> Iterator[None]:
    """Switch gradients off, inference mode too, until a `GradientSource` switches them on.

    Gradient mode is back as it was on the way out. `DataParallel` joins its outputs in this thread,
    where the copies' switch has no effect: there gradients are on from the start.
    """
    parallel = isinstance(forward_func, nn.DataParallel)
    with torch.inference_mode(False), torch.set_grad_enabled(parallel):
        yield


def outside_inference(value: Any) -> Any:
    """Return tensors made under inference mode as copies that autograd can save; call outside it.

    Looks into a tuple, and leaves all else as it is.
    """
    if isinstance(value, tuple):
        return tuple(outside_inference(item) for item in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def joined(
    tensors: Mapping[torch.device, Tensor], device_ids: Sequence[int] | None = None
) -> Tensor:
    """Return the parts of a batch on several devices as one tensor on the first of them.

    Args:
        tensors: By device.
        device_ids: The order of the devices; by index where None.
    """
    devices = list(tensors)
    if len(devices) == 1:
        return tensors[devices[0]]
    places = {} if device_ids is None else {index: place for place, index in enumerate(device_ids)}
    devices.sort(key=lambda device: places.get(device.index or 0, device.index or 0))
    return torch.cat([tensors[device].to(devices[0]) for device in devices])


def only_tensor(value: Any, name: str) -> Tensor:
    """Return the one tensor in a layer's input or output.

    Raises:
        LayerError: If there is none, or more than one.
    """
    tensors = list(tensors_in(value))
    if len(tensors) != 1:
        raise LayerError(
            f"layer {name!r} gives {len(tensors)} tensors, expected one; choose a layer inside it"
        )
    return tensors[0]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, field))


def _exchange(
    args: Any, other: Any, source: Any, old: Tensor, new: Tensor, layer_input: bool
) -> Any:
    """Return what a hook must return for `new` to go on in place of `old`."""
    if layer_input:
        return (
            tuple(new if item is old else item for item in args),
            {key: new if item is old else item for key, item in other.items()},
        )
    if source is old:
        return new
    if type(source) in (tuple, list):
        return type(source)(new if item is old else item for item in source)
    raise LayerError(f"cannot put a tensor back into a layer's {type(source).__name__} output")
