"""A copy of a network that records its layers' tensors without hooks and shares the parameters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.keeping.parts import uncompiled
from fastsal.networks.hooks import only_tensor
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError


@dataclass(frozen=True)
class Recording:
    """A function of one scale's tensor, whose result is recorded.

    Attributes:
        scale: The scale.
        read: The function; it is called with the tensor `(N, C, h, w)`.
    """

    scale: Scale
    read: Callable[[Tensor], Tensor]


class Recorder(threading.local):
    """Records the results of functions of layers' tensors during one forward pass.

    Every thread has results of its own.

    Args:
        recordings: The functions and their scales.

    Attributes:
        recordings: The functions and their scales.
        results: The results so far, by index in `recordings`.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = tuple(recordings)
        self.results: dict[int, Tensor] = {}
        self._calls: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Recorder], tuple[tuple[Recording, ...]]]:
        return Recorder, (self.recordings,)

    def begin(self) -> None:
        """Start a forward pass: drop the results of the one before."""
        self.results = {}
        self._calls = {}

    def end(self) -> list[Tensor]:
        """Return the results in the order of `recordings`, and drop them.

        Raises:
            LayerError: If a layer did not run.
        """
        results, calls = self.results, self._calls
        self.begin()
        for index, recording in enumerate(self.recordings):
            if index not in results:
                scale = recording.scale
                raise LayerError(
                    f"layer {scale.name!r} ran {calls.get(scale.name, 0)} time(s) in the network's "
                    "copy, so that its tensor was not seen; a network that reaches its layers "
                    "otherwise than as registered submodules cannot be given a map"
                )
        return [results[index] for index in range(len(self.recordings))]

    def enter(self, name: str, given: Any) -> int:
        """Record a layer's input if a recording asks for it, and count the call.

        Args:
            name: The layer's name.
            given: The layer's arguments.

        Returns:
            The number of the call, from 0.
        """
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        self._record(name, call, True, given)
        return call

    def leave(self, name: str, call: int, made: Any) -> None:
        """Record a layer's output if a recording asks for it.

        Args:
            name: The layer's name.
            call: The number of the call, from `enter`.
            made: The layer's output.
        """
        self._record(name, call, False, made)

    def _record(self, name: str, call: int, layer_input: bool, value: Any) -> None:
        for index, recording in enumerate(self.recordings):
            scale = recording.scale
            called = scale.call is None or scale.call == call
            if scale.name == name and scale.layer_input == layer_input and called:
                tensor = only_tensor(value, name).detach()
                self.results[index] = recording.read(scale.channels_first(tensor))


def recording_copy(model: nn.Module, recorder: Recorder) -> nn.Module:
    """Return a copy of a network whose layers show their tensors to a recorder.

    The modules are copies in evaluation mode; their parameters, buffers and other attributes are
    the model's own. A recorded layer becomes an instance of a subclass of its class, whose
    `forward` calls the original one and then the recorder: `isinstance`, attributes and indices
    work as in the model.

    Args:
        model: The network; it is not changed.
        recorder: A recorder of scales of this network.

    Raises:
        LayerError: If a layer is not in the model, or a module cannot be copied.
    """
    copies: dict[nn.Module, nn.Module] = {}
    root = _copied(model, copies)
    for copy in list(copies.values()):
        for key, value in vars(copy).items():
            # A bound method of the model would run the model's layers, not the copy's.
            if isinstance(value, MethodType) and value.__self__ in copies:
                copy.__dict__[key] = MethodType(value.__func__, copies[value.__self__])
    for recording in recorder.recordings:
        scale = recording.scale
        layer = copies.get(scale.module)
        if layer is None:
            raise LayerError(f"layer {scale.name!r} is not in the model")
        if not isinstance(layer, _Recorded):
            own: Any = type(layer)
            layer.__class__ = _recorded_class(own)
            layer.__dict__["_fastsal_recorder"] = recorder
            layer.__dict__["_fastsal_layer"] = scale.name
    return root


class _Recorded:
    """A base that marks the classes of recorded layers."""


@cache
def _recorded_class(base: Any) -> type[nn.Module]:
    class Recorded(base, _Recorded):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            recorder, name = self._fastsal_recorder, self._fastsal_layer
            # Before `forward`, since a layer may write to its input.
            call = recorder.enter(name, (args, kwargs))
            output = super().forward(*args, **kwargs)
            recorder.leave(name, call, output)
            return output

    # So that printing the network shows the original names.
    Recorded.__name__ = base.__name__
    Recorded.__qualname__ = base.__qualname__
    return Recorded


def _copied(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in copies:
        return copies[module]
    if isinstance(module, torch.jit.ScriptModule):
        if module.training:
            raise LayerError(
                f"{module.original_name} is a scripted or traced module in training mode, which "
                "cannot be copied without its state; call eval() on the model first"
            )
        return module
    own = uncompiled(module)
    if own is not module:
        copies[module] = _copied(own, copies)
        return copies[module]
    copy: nn.Module = type(module).__new__(type(module))
    copies[module] = copy
    for key, value in vars(module).items():
        # PyTorch's tables of a module: parameters, submodules and hooks.
        is_table = key.startswith("_") and isinstance(value, (dict, set))
        copy.__dict__[key] = value.copy() if is_table else value
    copy.__dict__["_compiled_call_impl"] = None
    copy.__dict__["training"] = False
    for name, child in module._modules.items():
        copy._modules[name] = None if child is None else _copied(child, copies)
    return copy
