"""Hooks that count a module's forward passes, and tell those who watch it of each."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any, Protocol

import torch
from torch import nn

from fastsal.networks import state

COMPILED = (
    "a compiled model calls no hooks, so that its passes cannot be read: compile it first, watch "
    "what torch.compile returned and give run_eager=True; the passes that are read then run "
    "uncompiled"
)
TRANSFORMED = (
    "passes inside a transform of torch.func (vmap, grad) are counted and cannot be read, since "
    "their tensors have no values yet; a pass outside is read"
)


class Reading(Protocol):
    """A pass that is read."""

    def leave(self, output: Any) -> None:
        """Remove what reads the pass; the module's output is None if the pass failed."""

    def finish(self, output: Any) -> None:
        """Take what was read, after all readings of the pass have left it."""


# Called with a pass's arguments and keyword arguments; it returns a pass that it reads.
Listener = Callable[[Any, Any], Reading | None]


class Counter:
    """The two hooks of a watched module, shared by all who watch it.

    They stay from the first `add` to the last `remove`: a hook that is taken off within a pass
    disturbs PyTorch, which goes through the module's hooks when a pass fails. In a copy of the
    module, or a file of it, they do nothing.

    Args:
        model: The module.

    Example:
        >>> net = nn.ReLU()
        >>> counter, seen = Counter.of(net), []
        >>> counter.add(lambda args, kwargs: seen.append(args[0].shape))
        >>> _ = net(torch.ones(2, 3))
        >>> seen
        [torch.Size([2, 3])]
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._listeners: list[Listener] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        # The passes that run now, by thread, the innermost last.
        self._running: dict[int, list[_Pass]] = {}

    @classmethod
    def of(cls, model: nn.Module) -> Counter:
        """Return the counter of a module: the one that it has, or a new one."""
        for hook in model._forward_pre_hooks.values():
            if isinstance(hook, _CounterHook):
                return hook.counter
        return cls(model)

    def add(self, listener: Listener) -> None:
        """Tell a listener of every pass from now on."""
        if not self._listeners:
            before, after = _CounterHook(self, self._before), _CounterHook(self, self._after)
            self._handles = [
                self._model.register_forward_pre_hook(before, with_kwargs=True),
                self._model.register_forward_hook(after, always_call=True),
            ]
        self._listeners.append(listener)

    def remove(self, listener: Listener) -> None:
        """Tell a listener of no more passes; what this thread is reading ends unread."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        for running in reversed(self._running.pop(threading.get_ident(), [])):
            running.end(None)
        if not self._listeners:
            for handle in self._handles:
                handle.remove()

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Tell all listeners of a pass.

        Raises:
            RuntimeError: If a compiled function runs it.
            Exception: Any error of a listener.
        """
        if state.within_compiled():
            raise RuntimeError(COMPILED)
        if not self._counts(module):
            return
        passes = self._running.setdefault(threading.get_ident(), [])
        # Ctrl-C, say, broke these off: PyTorch calls no hook then.
        while passes and not passes[-1].on_stack():
            passes.pop().end(None)
        running = _Pass(_calling_frames()[1])
        passes.append(running)
        for listener in tuple(self._listeners):
            reading = listener(args, kwargs)
            if reading is not None:
                running.readings.append(reading)

    def _after(self, _: nn.Module, __: Any, output: Any) -> None:
        """End this thread's pass; PyTorch calls this after a pass that fails, too."""
        passes = self._running.get(threading.get_ident())
        # Of a call that failed in a hook before `_before`, or does not count, there is no pass.
        if passes and passes[-1].frame in _calling_frames():
            ended = passes.pop()
            # Threads come and go.
            if not passes:
                del self._running[threading.get_ident()]
            ended.end(output)

    def _counts(self, module: nn.Module) -> bool:
        """Return True for a pass of the module that its user runs."""
        # `DataParallel` runs copies, which are other modules.
        if module is not self._model:
            return False
        return not state.reading() and not state.recomputing() and not state.traced()


class _Pass:
    """A pass that runs now.

    Args:
        frame: A frame that is on the stack as long as it runs.

    Attributes:
        frame: That frame.
        readings: What reads it.
    """

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.readings: list[Reading] = []

    def on_stack(self) -> bool:
        """Return True if the pass still runs."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None

    def end(self, output: Any) -> None:
        """End all readings, then let each take what it read."""
        with ExitStack() as stack:
            # Last of all, each whether or not another fails.
            for reading in reversed(self.readings):
                stack.callback(reading.finish, output)
            for reading in reversed(self.readings):
                reading.leave(output)


class _CounterHook(state.Hook):
    def __init__(self, counter: Counter, call: Callable[..., None]) -> None:
        super().__init__(call)
        self.counter = counter


def _calling_frames() -> tuple[FrameType, ...]:
    """Return the two frames of PyTorch that call the hook which calls this.

    The second is that of the module's call, as is the first where the call has failed.
    """
    # This function, `_before` or `_after`, and `_CounterHook`.
    first = sys._getframe(3)
    return first, first.f_back or first
