"""A recorder of layers' tensors, and a copy of a network whose layers show it their tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.export.module_copy import ModuleCopy
from fastsal.keeping.parts import parts
from fastsal.networks import state
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
    read: Callable[[Tensor], Any]


class Recorder(threading.local):
    """Records the results of functions of layers' tensors during one forward pass.

    Every thread has results of its own.

    Args:
        recordings: The functions and their scales.
        expected: How often each layer runs in a pass, by its name; the first pass adds those that
            are not known.

    Attributes:
        recordings: The functions and their scales.
        expected: As given.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> scale = Scale("1", net[1], None, (1, 4, 6, 6), (1, 1), signed=False)
        >>> recorder = Recorder([Recording(scale, lambda tensor: tensor.mean(1))], {})
        >>> recorder.begin()
        >>> recorder.record("1", False, torch.ones(1, 4, 6, 6))
        >>> recorder.end()[0].shape
        torch.Size([1, 6, 6])
    """

    def __init__(self, recordings: Sequence[Recording], expected: dict[str, int]) -> None:
        # Called again in each thread, with the same arguments.
        self.recordings = tuple(recordings)
        self.expected = expected
        self._results: dict[int, Any] = {}
        self._calls: dict[tuple[str, bool], int] = {}

    def __reduce__(self) -> tuple[type[Recorder], tuple[Any, ...]]:
        return Recorder, (self.recordings, self.expected)

    def begin(self) -> None:
        """Start a forward pass: drop the results of the one before."""
        self._results = {}
        self._calls = {}

    def record(self, name: str, layer_input: bool, value: Any) -> None:
        """Record a layer's output, or its input, if a recording asks for it.

        Args:
            name: The layer's name.
            layer_input: True for the input.
            value: The output, or the arguments.
        """
        call = self._calls.get((name, layer_input), 0)
        self._calls[name, layer_input] = call + 1
        for index, recording in enumerate(self.recordings):
            scale = recording.scale
            called = scale.call is None or scale.call == call
            if scale.name == name and scale.layer_input == layer_input and called:
                tensor = only_tensor(value, name).detach()
                self._results[index] = recording.read(scale.channels_first(tensor))

    def end(self) -> list[Any]:
        """Return the results in the order of `recordings`, and drop them.

        Raises:
            LayerError: If a layer did not run, or not as often as with the example.
        """
        results, calls = self._results, self._calls
        self.begin()
        for index, recording in enumerate(self.recordings):
            scale = recording.scale
            ran = calls.get((scale.name, scale.layer_input), 0)
            expected = self.expected.setdefault(scale.name, ran)
            if index not in results or (scale.call is not None and ran != expected):
                raise LayerError(
                    f"layer {scale.name!r} ran {ran} time(s) on this input and {expected} time(s) "
                    "on the example, by which the call that is read was chosen; make the module "
                    "anew with an example like this input"
                )
        return [results[index] for index in range(len(self.recordings))]


def recording_copy(model: nn.Module, recorder: Recorder) -> nn.Module:
    """Return a copy of a network whose layers show their tensors to a recorder.

    Args:
        model: The network; it is not changed.
        recorder: A recorder of scales of this network.

    Raises:
        LayerError: If a layer is not in the model, or a module cannot be copied.
    """
    copied = ModuleCopy(model)
    shown: set[tuple[str, bool]] = set()
    for recording in recorder.recordings:
        scale = recording.scale
        layer = copied.copies.get(scale.module)
        if layer is None:
            raise LayerError(f"layer {scale.name!r} is not in the model")
        show = _Show(recorder, scale.name, scale.layer_input)
        if (show.name, show.layer_input) in shown:
            continue
        shown.add((show.name, show.layer_input))
        # After the model's own hooks: what they make is the layer's tensor.
        if show.layer_input:
            layer.register_forward_pre_hook(show, with_kwargs=True)
        else:
            layer.register_forward_hook(show)
    return copied.network


@dataclass(frozen=True, eq=False)
class _Show:
    """The hook of a recorded layer: a pre-hook for its input, a hook for its output."""

    recorder: Recorder
    name: str
    layer_input: bool

    def __call__(self, _: nn.Module, args: Any, other: Any) -> None:
        value = (args, other) if self.layer_input else other
        self.recorder.record(self.name, self.layer_input, value)


@contextmanager
def refusing(model: nn.Module) -> Iterator[None]:
    """Refuse passes through a network's own modules, where a copy of it runs.

    Args:
        model: The network.

    Raises:
        LayerError: If one of its modules runs.
    """
    names = {module: name for name, module in model.named_modules()}

    def refuse(module: nn.Module, *_: Any) -> None:
        raise LayerError(
            f"module {names.get(module) or type(module).__name__!r} of the model itself runs in "
            "the network's copy, whose layers are then not seen: an object that cannot be copied "
            "leads to it, such as a global variable; reach it by an attribute of the module that "
            "calls it"
        )

    found = [part for part in parts(model) if not isinstance(part, torch.jit.ScriptModule)]
    with state.hooked([(part, refuse, True) for part in found]):
        yield
