"""Attributes of modules that a forward pass sets: counters, caches, lists that grow."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, MutableSet
from functools import partial
from operator import is_, is_not
from typing import Any

import torch
from torch import Tensor, nn

from fastsal.keeping.parts import parts

# Attributes of every module that are no state of the user's.
_OF_PYTORCH = frozenset(vars(nn.Module())) - {"training"}
# A larger tensor that is no buffer is an activation; it is put back if another took its place.
_MOST_BYTES = 2**20
_DEPTH = 3
# Of more items the number alone is kept, and what was added is taken away.
_MOST_ITEMS = 1000
# An object with more is a configuration or a library's.
_MOST_ATTRIBUTES = 20
_IMMUTABLE = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size)
)
_MISSING = object()


class Attributes:
    """The attributes of modules before a forward pass, and what lies in them.

    Lists, dictionaries, sets, arrays and plain objects are kept with their items.

    Args:
        found: The modules.

    Attributes:
        hidden: The modules that are found in lists and the like, which no module registers.
        tensors: The small tensors among the attributes.
    """

    def __init__(self, found: Iterable[nn.Module]) -> None:
        self.hidden: list[nn.Module] = []
        self.tensors: list[Tensor] = []
        self._seen: set[int] = set()
        self._restores: list[Callable[[], None]] = []
        self._kept = set(found)
        for part in tuple(self._kept):
            self._keep_module(part)

    def put_back(self) -> None:
        """Set all attributes to what they were."""
        for restore in self._restores:
            restore()

    def _keep_module(self, part: nn.Module) -> None:
        # The state of a scripted module lies in no dictionaries.
        if isinstance(part, torch.jit.ScriptModule):
            return
        attributes = vars(part)
        before = _of_user(attributes)
        buffers = dict(part._buffers)

        def restore() -> None:
            # Most passes change nothing.
            if not _same(before, _of_user(attributes)):
                _restore_attributes(part, before)
            if (buffers or part._buffers) and not _same(buffers, part._buffers):
                part._buffers.clear()
                part._buffers.update(buffers)

        self._restores.append(restore)
        for value in before.values():
            if type(value) not in _IMMUTABLE:
                self._keep(value, _DEPTH)

    def _keep(self, value: Any, depth: int) -> None:
        if type(value) in _IMMUTABLE or id(value) in self._seen or not depth:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            if (
                value.numel() * value.element_size() <= _MOST_BYTES
                and value.layout is torch.strided
            ):
                self.tensors.append(value)
        elif isinstance(value, nn.Module):
            for part in parts(value):
                if part not in self._kept:
                    self._kept.add(part)
                    self.hidden.append(part)
                    self._keep_module(part)
        elif isinstance(value, (list, deque)):
            self._keep_items(value, depth)
        elif isinstance(value, tuple):
            for item in value:
                self._keep(item, depth - 1)
        elif isinstance(value, MutableMapping):
            self._keep_mapping(value, depth)
        elif isinstance(value, MutableSet):
            self._restores.append(partial(_restore_set, value, set(value)))
        elif type(value).__module__ == "numpy" and hasattr(value, "setflags"):
            self._restores.append(partial(_restore_array, value, value.copy()))
        elif _is_plain(value):
            self._keep_object(value, depth)

    def _keep_items(self, value: list[Any] | deque[Any], depth: int) -> None:
        if len(value) > _MOST_ITEMS:
            self._restores.append(partial(_shorten, value, len(value)))
            return
        items = list(value)

        def restore() -> None:
            if len(value) != len(items) or any(map(is_not, value, items)):
                value.clear()
                value.extend(items)

        self._restores.append(restore)
        for item in items:
            self._keep(item, depth - 1)

    def _keep_mapping(self, value: MutableMapping[Any, Any], depth: int) -> None:
        if len(value) > _MOST_ITEMS:
            return
        items = dict(value)

        def restore() -> None:
            if not _same(items, value):
                value.clear()
                value.update(items)

        self._restores.append(restore)
        for item in items.values():
            self._keep(item, depth - 1)

    def _keep_object(self, value: Any, depth: int) -> None:
        attributes = vars(value)
        before = dict(attributes)

        def restore() -> None:
            if not _same(before, attributes):
                attributes.clear()
                attributes.update(before)

        self._restores.append(restore)
        for item in before.values():
            self._keep(item, depth - 1)


def _of_user(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in attributes if name not in _OF_PYTORCH}


def _same(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> bool:
    """Return True if two mappings hold the same objects in the same order."""
    return (
        len(before) == len(now)
        and all(map(is_, before.values(), now.values()))
        # A mapping of the user's own may make its keys anew.
        and (all(map(is_, before, now)) or list(before) == list(now))
    )


def _restore_attributes(part: nn.Module, before: dict[str, Any]) -> None:
    attributes = vars(part)
    # What became a parameter, buffer or module in the pass, as in a layer that is made at its first
    # use, stays one.
    registered = part._parameters.keys() | part._buffers.keys() | part._modules.keys()
    for name in attributes.keys() - before.keys() - _OF_PYTORCH:
        del attributes[name]
    for name, value in before.items():
        if name not in registered and attributes.get(name, _MISSING) is not value:
            attributes[name] = value


def _shorten(value: list[Any] | deque[Any], length: int) -> None:
    while len(value) > length:
        value.pop()


def _restore_set(value: Any, items: set[Any]) -> None:
    if value != items:
        value.clear()
        value.update(items)


def _restore_array(value: Any, before: Any) -> None:
    if value.flags.writeable:
        value[...] = before


def _is_plain(value: Any) -> bool:
    """Return True for an instance of a class of the user's own, with attributes in a dictionary."""
    home = type(value).__module__.partition(".")[0]
    if home in sys.stdlib_module_names or home in ("torch", "numpy") or callable(value):
        return False
    return len(getattr(value, "__dict__", ())) in range(1, _MOST_ATTRIBUTES + 1)
