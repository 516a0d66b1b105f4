"""A network in evaluation mode for some passes, and afterwards what it was before."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fastsal.keeping.attributes import Attributes
from fastsal.keeping.parts import changing, has_own_train
from fastsal.keeping.random_numbers import RandomNumbers
from fastsal.keeping.tensors import TensorMemory

_training = attrgetter("training")
# Reentrant, since a `train()` of the user's own is called under it.
_lock = threading.RLock()


class _Memory:
    """What outlives the passes through one network: copies of its buffers.

    Attributes:
        tensors: The copies.
        draws: True if passes draw numbers from Python's or NumPy's generators; None before the
            first.
    """

    def __init__(self) -> None:
        self.tensors = TensorMemory()
        self.draws: bool | None = None


class _Kept:
    """One network while passes run through it, from the first that begins to the last that ends.

    Args:
        root: The network; None stands for a function, of which the random numbers alone are kept.
        found: Its parts.
        memory: Its copies.

    Attributes:
        found: The parts.
        passes: The number of passes that run.
    """

    def __init__(self, root: nn.Module | None, found: Sequence[nn.Module], memory: _Memory) -> None:
        self.found = found
        self.passes = 0
        self._memory = memory
        self._own: list[nn.Module] = []
        self._trained: list[nn.Module] = []
        self._frozen: list[tuple[Tensor, bool]] = []
        training = any(map(_training, found))
        if training:
            self._trained = [part for part in found if part.training]
            self._own = [part for part in found if has_own_train(part)]
        # A `train()` of the user's own may set attributes of all parts, and freeze parameters.
        self._attributes = Attributes(found if self._own else changing(found))
        if self._own and root is not None:
            self._frozen = [(each, each.requires_grad) for each in root.parameters()]
        self._random = RandomNumbers(_devices_of(found), memory.draws is not False)
        try:
            if training and root is not None:
                # An exported program has no `eval()`; its flags are set below.
                with suppress(NotImplementedError):
                    root.eval()
                for part in found:
                    # A `train()` of the user's own may leave a flag as it is.
                    if part.training:
                        part.training = False
            self._take_tensors()
        except BaseException:
            self.put_back()
            raise

    def _take_tensors(self) -> None:
        held = [
            part
            for part in chain(self.found, self._attributes.hidden)
            if part._buffers and not isinstance(part, torch.jit.ScriptModule)
        ]
        buffers = _buffers_of(held)
        silent = _buffers_of([part for part in held if _writes_silently(part)])
        tensors = [*buffers, *self._attributes.tensors]
        if len(set(map(id, tensors))) < len(tensors):
            tensors = list({id(one): one for one in tensors}.values())
        self._memory.tensors.take(tensors, silent)

    def free(self, busy: Collection[nn.Module]) -> None:
        """Put the flags back of parts that are not busy with a pass that goes on."""
        if not self._own:
            for part in self._trained:
                if part not in busy:
                    part.training = True
            self._trained = [part for part in self._trained if part in busy]

    def put_back(self) -> None:
        """Undo what the passes and the evaluation mode changed."""
        if self._random.put_back():
            self._memory.draws = True
        elif self._memory.draws is None:
            self._memory.draws = False
        for part in self._own:
            if part in self._trained:
                with suppress(NotImplementedError):
                    part.train()
        for part in self.found if self._own else ():
            part.training = False
        for part in self._trained:
            part.training = True
        for parameter, requires_grad in self._frozen:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        self._attributes.put_back()
        self._memory.tensors.put_back()


# A function runs unchanged: its state is not known.
_FUNCTIONS = _Memory()
_FUNCTIONS.draws = False
_memories: WeakKeyDictionary[nn.Module, _Memory] = WeakKeyDictionary()
_active: dict[nn.Module | None, _Kept] = {}
# Those whose passes have ended while another pass runs through one of their parts.
_ended: list[_Kept] = []


class kept:
    """Keep a network in evaluation mode, and put back all that passes inside the block change.

    `eval()` is called, and afterwards what it changed is put back: the flags of every part, which
    may have been mixed, and what a `train()` of the user's own sets. Likewise buffers, attributes,
    and the streams of random numbers. If several threads run one network, or this block is nested,
    the last to leave puts back.

    Args:
        root: The network; None keeps the random numbers alone.
        found: Its parts.
    """

    def __init__(self, root: nn.Module | None, found: Sequence[nn.Module]) -> None:
        self._root = root
        self._found = found

    def __enter__(self) -> None:
        root = self._root
        with _lock:
            one = _active.get(root)
            if one is None:
                memory = _FUNCTIONS if root is None else _memories.setdefault(root, _Memory())
                one = _active[root] = _Kept(root, self._found, memory)
            one.passes += 1
        self._one = one

    def __exit__(self, *_: object) -> None:
        one = self._one
        with _lock:
            one.passes -= 1
            if not one.passes:
                del _active[self._root]
                _ended.append(one)
                _put_back_ended()


def _put_back_ended() -> None:
    """Put back what no pass runs through any more; the newest began from the older: it is first."""
    busy = {part for other in _active.values() for part in other.found}
    for one in reversed(tuple(_ended)):
        if busy and not busy.isdisjoint(one.found):
            one.free(busy)
            busy.update(one.found)
            continue
        _ended.remove(one)
        one.put_back()


def _devices_of(found: Sequence[nn.Module]) -> tuple[torch.device, ...]:
    """Return the device of a network's first parameter, if it has one."""
    for part in found:
        for parameter in part._parameters.values():
            if parameter is not None:
                return (parameter.device,)
    return ()


def _buffers_of(held: Sequence[nn.Module]) -> list[Tensor]:
    buffers = list(chain.from_iterable([part._buffers.values() for part in held]))
    return [one for one in buffers if one is not None]


def _writes_silently(part: nn.Module) -> bool:
    """Return True for a module whose buffers change without a count of their versions."""
    if isinstance(part, _NormBase):
        return part.training
    return type(part).__name__.startswith("FusedMovingAvg")
