"""A network that hands out tensors from its inside, without hooks and with the same parameters."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.networks.hooks import only_tensor
from fastsal.networks.scales import Scale
from fastsal.networks.state import LayerError, uncompiled


@dataclass(frozen=True)
class Recording:
    """What is read at one place.

    Attributes:
        scale: The place.
        read: Called with the tensor, channels second; what it returns is kept.
    """

    scale: Scale
    read: Callable[[Tensor], Tensor]


class Recorder(threading.local):
    """Keeps what was read during one forward pass; each thread has its own.

    Attributes:
        recordings: What is read.
        readings: What was, by the place in `recordings`.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = tuple(recordings)
        self.readings: dict[int, Tensor] = {}
        self._calls: dict[str, int] = {}

    def __reduce__(self) -> tuple[type[Recorder], tuple[tuple[Recording, ...]]]:
        return Recorder, (self.recordings,)

    def begin(self) -> None:
        """Forget the pass before."""
        self.readings = {}
        self._calls = {}

    def end(self) -> list[Tensor]:
        """Return what was read, and keep nothing.

        Raises:
            LayerError: If a layer did not run.
        """
        readings, calls = self.readings, self._calls
        self.begin()
        for index, recording in enumerate(self.recordings):
            if index not in readings:
                scale = recording.scale
                raise LayerError(
                    f"layer {scale.name!r} ran {calls.get(scale.name, 0)} time(s) in the network's "
                    "copy, so that its tensor was not seen; a network that reaches its layers "
                    "otherwise than as registered submodules cannot be given a map"
                )
        return [readings[index] for index in range(len(self.recordings))]

    def enter(self, name: str, given: Any) -> int:
        """Note that a layer runs, read its input where asked for, and return which call it is."""
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        self._see(name, call, True, given)
        return call

    def leave(self, name: str, call: int, made: Any) -> None:
        """Read a layer's output where asked for."""
        self._see(name, call, False, made)

    def _see(self, name: str, call: int, layer_input: bool, value: Any) -> None:
        for index, recording in enumerate(self.recordings):
            scale = recording.scale
            called = scale.call is None or scale.call == call
            if scale.name == name and scale.layer_input == layer_input and called:
                tensor = only_tensor(value, name).detach()
                self.readings[index] = recording.read(scale.channels_first(tensor))


def recording_copy(model: nn.Module, recorder: Recorder) -> nn.Module:
    """Return a network that does what the model does, and shows tensors to a recorder.

    The modules are new objects; their parameters, buffers and all else that they hold are the
    model's own. The layers that are read belong to a class made from their own, whose `forward`
    calls the old one and then the recorder: `isinstance`, attributes and indices work as before.

    Args:
        model: The network; it is left as it is.
        recorder: Of scales of this model.

    Raises:
        LayerError: If a layer is not in the model, or a part cannot be copied.
    """
    copies: dict[nn.Module, nn.Module] = {}
    root = _copied(model, copies)
    for copy in list(copies.values()):
        for key, value in vars(copy).items():
            # A method of the original would run the original's layers.
            if isinstance(value, MethodType) and value.__self__ in copies:
                copy.__dict__[key] = MethodType(value.__func__, copies[value.__self__])
    for recording in recorder.recordings:
        scale = recording.scale
        layer = copies.get(scale.module)
        if layer is None:
            raise LayerError(f"layer {scale.name!r} is no part of the model")
        if not isinstance(layer, _Recorded):
            own: Any = type(layer)
            layer.__class__ = _recorded_class(own)
            layer.__dict__["_fastsal_recorder"] = recorder
            layer.__dict__["_fastsal_layer"] = scale.name
    return root


class _Recorded:
    """Marks the classes of layers that are read."""


@cache
def _recorded_class(base: Any) -> type[nn.Module]:
    class Recorded(base, _Recorded):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            recorder, name = self._fastsal_recorder, self._fastsal_layer
            # A layer may write to its input.
            call = recorder.enter(name, (args, kwargs))
            output = super().forward(*args, **kwargs)
            recorder.leave(name, call, output)
            return output

    # Listings of the network read as before.
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
        # What PyTorch keeps of a module: hooks, and the tables of its parts.
        own_table = key.startswith("_") and isinstance(value, (dict, set))
        copy.__dict__[key] = value.copy() if own_table else value
    copy.__dict__["_compiled_call_impl"] = None
    copy.__dict__["training"] = False
    for name, part in module._modules.items():
        copy._modules[name] = None if part is None else _copied(part, copies)
    return copy
