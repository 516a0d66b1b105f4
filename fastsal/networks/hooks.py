"""Forward hooks that read layers during one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastsal.geometry.following import Following
from fastsal.keeping.parts import uncompiled
from fastsal.networks.state import (
    ForwardFunction,
    LayerError,
    evaluation_pass,
    hooked,
    in_other_threads,
    root_module,
)

CPU = torch.device("cpu")
grad_enabled = torch.is_grad_enabled


class Tap(NamedTuple):
    """A layer's output or input that is read during a forward pass.

    Attributes:
        name: The layer's name, for messages.
        module: The layer.
        read: Called with the layer's tensor; its result is kept, the tensor is not.
        call: The call of the module that is read, from 0; None reads the last.
        layer_input: Reads the module's input in place of its output.
        replace: Called with the layer's tensor after `read`; its result goes on through the network
            in place of the tensor.
        modes: Torch function modes that see all operations of the pass, in the threads of
            `DataParallel` too. One that follows pixels is told the inputs.
        functions: Reads what so many functions after the module's output make, 0 the output itself.
    """

    name: str
    module: nn.Module
    read: Callable[[Tensor], Tensor]
    call: int | None = None
    layer_input: bool = False
    replace: Callable[[Tensor], Tensor] | None = None
    modes: tuple[TorchFunctionMode, ...] = ()
    functions: int = 0


class FunctionCounter(TorchFunctionMode):
    """A torch function mode that reads the result of a function some functions after a module."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @property
    def paused(self) -> bool:
        """True while a hook of this thread computes, whose functions do not count."""
        return getattr(self._local, "paused", False)

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._local.paused = paused

    def arm(self, reading: Reading) -> None:
        """Read the result of the function that its tap's number of functions from now is called."""
        waiting: list[list[Any]] = self._local.__dict__.setdefault("waiting", [])
        waiting.append([reading.tap.functions, reading])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and read its result if a tap waits for it."""
        result = func(*args, **(kwargs or {}))
        waiting = self._local.__dict__.get("waiting")
        if not waiting or self.paused:
            return result
        for entry in tuple(waiting):
            entry[0] -= 1
            if not entry[0]:
                waiting.remove(entry)
                result = entry[1].take(result)
        return result


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
        taps: The places that are read.
        device_ids: The order of the devices over which a `DataParallel` model splits a batch.

    Returns:
        The model's output, and the result of each tap's `read`, in the order of the taps.

    Raises:
        LayerError: If a layer did not run, or does not give one tensor.
    """
    if isinstance(forward_func, nn.Module):
        forward_func = uncompiled(forward_func)
    root = root_module(forward_func)
    parallel = root if isinstance(forward_func, nn.DataParallel) else None
    with evaluation_pass(root), held(taps, inputs, parallel) as readings:
        output = forward_func(*inputs, *as_arguments(additional_forward_args))
    if device_ids is None:
        device_ids = getattr(forward_func, "device_ids", None)
    return output, [reading.gathered(device_ids) for reading in readings]


@contextmanager
def held(
    taps: Sequence[Tap],
    inputs: Sequence[Tensor],
    parallel: nn.Module | None = None,
    own_pass: bool = True,
) -> Iterator[list[Reading]]:
    """Keep taps on their layers, for the passes that this thread runs meanwhile.

    Args:
        taps: The places that are read.
        inputs: The tensors that the passes are of.
        parallel: The module that a `DataParallel` copies into other threads; None without one.
        own_pass: As for `hooked`.
    """
    counter = FunctionCounter() if any(tap.functions for tap in taps) else None
    modes = list(dict.fromkeys(mode for tap in taps for mode in tap.modes))
    if counter is not None:
        modes.append(counter)
    readings = [Reading(tap, counter, modes) for tap in taps]
    hooks: list[tuple[nn.Module, Callable[..., Any], bool]] = [
        (tap.module, reading, tap.layer_input) for tap, reading in zip(taps, readings, strict=True)
    ]
    if not modes:
        with hooked(hooks, own_pass):
            yield readings
        return
    following = [mode for mode in modes if isinstance(mode, Following)]
    if parallel is not None:
        for mode in modes:
            before, after = in_other_threads(mode)
            if isinstance(mode, Following):
                hooks = [(parallel, partial(_begin, mode), True), *hooks]
            # Before the first reading, and after the last.
            hooks = [(parallel, before, True), *hooks, (parallel, after, False)]
    with hooked(hooks, own_pass), ExitStack() as stack:
        for one in following:
            one.begin(inputs)
            stack.callback(one.end)
        for mode in modes:
            stack.enter_context(mode)
        yield readings


def _begin(following: Following, _: nn.Module, args: Any, kwargs: Any) -> None:
    # Each copy of a `DataParallel` has images of its own.
    following.begin(list(tensors_in((args, kwargs))))


def as_arguments(additional_forward_args: object) -> tuple[object, ...]:
    """Return Captum's additional forward arguments as a tuple."""
    if additional_forward_args is None:
        return ()
    if isinstance(additional_forward_args, tuple):
        return additional_forward_args
    return (additional_forward_args,)


class Reading:
    """The forward hook of one tap; `DataParallel` calls it from one thread for each device."""

    def __init__(
        self,
        tap: Tap,
        counter: FunctionCounter | None = None,
        modes: Sequence[TorchFunctionMode] = (),
    ) -> None:
        self.tap = tap
        self.following = [mode for mode in modes if isinstance(mode, Following)]
        self.counter = counter
        self.counting = [m for m in modes if isinstance(m, (Following, FunctionCounter))]
        at_output = not tap.layer_input and tap.replace is None and not tap.functions
        self.plain = at_output and not self.counting
        self.lock = threading.Lock()
        self.calls: dict[torch.device, int] = {}
        self.values: dict[torch.device, Tensor] = {}

    def __call__(self, _: nn.Module, args: Any, other: Any) -> Any:
        """Read the tensor; `other` is the output, in a pre-hook the keyword arguments."""
        if self.plain and type(other) is Tensor and not grad_enabled():
            # The same as below in fewer steps, since every step between two layers waits for
            # memory, and on a GPU every launch does. No lock: one device has one thread a pass.
            tap = self.tap
            device = CPU if other.is_cpu else other.device
            call = self.calls.get(device, 0)
            self.calls[device] = call + 1
            if tap.call is None or call == tap.call:
                self.values[device] = tap.read(other)
            return None
        # What a hook computes is no function of the network.
        for mode in self.counting:
            mode.paused = True
        try:
            return self._called(args, other)
        finally:
            for mode in self.counting:
                mode.paused = False

    def _called(self, args: Any, other: Any) -> Any:
        tap = self.tap
        source = (*args, *other.values()) if tap.layer_input else other
        tensor = None if tap.functions else only_tensor(source, tap.name)
        device = next((found.device for found in tensors_in(source)), CPU)
        with self.lock:
            call = self.calls.get(device, 0)
            self.calls[device] = call + 1
        if tap.call is not None and call != tap.call:
            return None
        if tensor is None:
            if self.counter is not None:
                self.counter.arm(self)
            return None
        new = self.take(tensor)
        if new is tensor:
            return None
        return _exchange(args, other, source, tensor, new, tap.layer_input)

    def take(self, tensor: Any) -> Any:
        """Keep what the tap reads of the tensor, and return the tensor that goes on.

        Raises:
            LayerError: If it is no tensor.
        """
        tap = self.tap
        if not isinstance(tensor, Tensor):
            raise LayerError(
                f"{tap.functions} function(s) after layer {tap.name!r} came a "
                f"{type(tensor).__name__}, expected the tensor of the first pass: the network's "
                "functions change from pass to pass; put the operation into a module, and give it "
                "as layer"
            )
        with torch.no_grad():
            # A tensor after a gradient source requires gradients, which `read` does not need.
            value = tap.read(tensor)
        with self.lock:
            self.values[tensor.device] = value
        if tap.replace is None:
            return tensor
        new = tap.replace(tensor)
        for following in self.following:
            following.copy(tensor, new)
        return new

    def gathered(self, device_ids: Sequence[int] | None) -> Tensor:
        """Return the value that was read, joined on the first device if there are several."""
        if not self.values:
            calls = max(self.calls.values(), default=0)
            raise LayerError(
                f"layer {self.tap.name!r} did not run as a module in this pass: the network took "
                "another way for these images (an early exit), or runs the layer by "
                "`layer.forward(...)`; call layers as modules, and give the model itself"
                if calls == 0
                else f"layer {self.tap.name!r} ran {calls} time(s), so that there is no call "
                f"{self.tap.call} (from 0) to read"
            )
        return joined(self.values, device_ids)


def joined(
    tensors: Mapping[torch.device, Tensor], device_ids: Sequence[int] | None = None
) -> Tensor:
    """Return the parts of a batch on several devices as one tensor on the first device.

    Args:
        tensors: The part on each device.
        device_ids: The order of the devices; None sorts them by index.
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
    """Return the value that a hook returns to put `new` in place of `old`."""
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
