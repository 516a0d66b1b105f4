"""A copy of a network's modules, in evaluation mode, that shares the parameters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from fastsal.keeping.parts import uncompiled
from fastsal.networks.state import LayerError


class ModuleCopy:
    """A copy of a network: new modules with the network's own parameters and buffers.

    Every attribute of a copy is the module's own object, unless it leads to a module: lists,
    tuples, dicts and sets of modules lead to their copies, and so does what is called, as hooks and
    a replaced `forward` are: bound methods, partial functions, functions with modules in their
    closure, and callable objects with modules as attributes.

    Args:
        network: The network; it is not changed.

    Attributes:
        network: The copy of the network.
        copies: The copy of each module in it.

    Raises:
        LayerError: If a module cannot be copied.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> copy = ModuleCopy(net)
        >>> copy.network[0] is copy.copies[net[0]], copy.network[0].weight is net[0].weight
        (True, True)
    """

    def __init__(self, network: nn.Module) -> None:
        self.copies: dict[nn.Module, nn.Module] = {}
        # By the id of the value; the value is kept, so that no other takes its id.
        self._led: dict[int, tuple[Any, Any]] = {}
        # The copies whose attributes still lead to the network's modules.
        self._waiting: list[nn.Module] = []
        self.network = self._copied(network)
        while self._waiting:
            copy = self._waiting.pop()
            for key, value in vars(copy).items():
                if key != "_modules":
                    copy.__dict__[key] = self._leading_here(value)

    def _copied(self, module: nn.Module) -> nn.Module:
        if module in self.copies:
            return self.copies[module]
        if isinstance(module, torch.jit.ScriptModule):
            if module.training:
                raise LayerError(
                    f"{module.original_name} is a scripted or traced module in training mode, "
                    "which cannot be copied without its state; call eval() on the model first"
                )
            return module
        own = uncompiled(module)
        if own is not module:
            self.copies[module] = self._copied(own)
            return self.copies[module]
        # Not by the class's own `__new__`: a GraphModule's makes another class, without `forward`.
        try:
            copy: nn.Module = object.__new__(type(module))
        except TypeError as error:
            raise LayerError(f"{type(module).__name__} cannot be copied: {error}") from error
        self.copies[module] = copy
        self._waiting.append(copy)
        for key, value in vars(module).items():
            # PyTorch's tables of a module: parameters, submodules and hooks.
            is_table = key.startswith("_") and isinstance(value, (dict, set))
            copy.__dict__[key] = value.copy() if is_table else value
        copy.__dict__["_compiled_call_impl"] = None
        copy.__dict__["training"] = False
        for name, child in module._modules.items():
            copy._modules[name] = None if child is None else self._copied(child)
        return copy

    def _leading_here(self, value: Any) -> Any:
        """Return a value that leads to the copies where it led to modules, else itself."""
        if isinstance(value, nn.Module):
            return self._copied(value)
        make = REBUILT.get(type(value))
        if make is None:
            if isinstance(value, type) or not callable(value) or not hasattr(value, "__dict__"):
                return value
            make = ModuleCopy._object
        known = self._led.get(id(value))
        if known is None:
            # A value that contains itself stays as it is.
            self._led[id(value)] = value, value
            self._led[id(value)] = known = value, make(self, value)
        return known[1]

    def _all(self, values: Iterable[Any]) -> list[Any] | None:
        """Return the values, leading to the copies; None if none of them led to a module."""
        before = list(values)
        after = [self._leading_here(value) for value in before]
        changed = any(one is not other for one, other in zip(before, after, strict=True))
        return after if changed else None

    def _items(self, value: Any) -> Any:
        items = self._all(value)
        return value if items is None else type(value)(items)

    def _mapping(self, value: Any) -> Any:
        items = self._all(value.values())
        if items is None:
            return value
        return type(value)(zip(value, items, strict=True))

    def _method(self, value: MethodType) -> Any:
        owner = self._leading_here(value.__self__)
        return value if owner is value.__self__ else MethodType(value.__func__, owner)

    def _partial(self, value: partial[Any]) -> Any:
        items = self._all([value.func, *value.args, *value.keywords.values()])
        if items is None:
            return value
        function, *given = items
        positional = given[: len(value.args)]
        keywords = dict(zip(value.keywords, given[len(value.args) :], strict=True))
        return partial(function, *positional, **keywords)

    def _function(self, value: FunctionType) -> Any:
        cells = value.__closure__ or ()
        # An empty cell is a name that was not assigned.
        full = [cell for cell in cells if _is_full(cell)]
        contents = [cell.cell_contents for cell in full]
        items = self._all([*contents, value.__defaults__, value.__kwdefaults__])
        if items is None:
            return value
        *led, defaults, keyword_defaults = items
        # Other cells may be shared with functions that assign to them.
        new = {
            id(cell): CellType(after)
            for cell, before, after in zip(full, contents, led, strict=True)
            if after is not before
        }
        closure = tuple(new.get(id(cell), cell) for cell in cells)
        function = FunctionType(
            value.__code__, value.__globals__, value.__name__, defaults, closure
        )
        function.__kwdefaults__ = keyword_defaults
        function.__dict__.update(value.__dict__)
        return function

    def _object(self, value: Any) -> Any:
        attributes = self._mapping(vars(value))
        if attributes is vars(value):
            return value
        try:
            copy = object.__new__(type(value))
        # A class of C's, such as a cache around a function.
        except TypeError:
            return value
        copy.__dict__.update(attributes)
        return copy


def _is_full(cell: CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


# How a value of each type is made again, if it leads to a module.
REBUILT: dict[type, Any] = {
    list: ModuleCopy._items,
    tuple: ModuleCopy._items,
    set: ModuleCopy._items,
    dict: ModuleCopy._mapping,
    OrderedDict: ModuleCopy._mapping,
    MethodType: ModuleCopy._method,
    partial: ModuleCopy._partial,
    FunctionType: ModuleCopy._function,
}
