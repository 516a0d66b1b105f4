"""The modules of a network: those that it registers, and which of them may change in a pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

# By class: True for those whose forward pass is PyTorch's own, which sets no attributes.
_standard: WeakKeyDictionary[type, bool] = WeakKeyDictionary()
# What a class may have of its own, and its forward pass is that of the class above.
_BESIDE_FORWARD = frozenset(("__init__", "__repr__", "extra_repr", "__dict__", "__weakref__"))


def parts(module: nn.Module | None) -> list[nn.Module]:
    """Return a module and all modules inside it, several times faster than `modules()`.

    >>> len(parts(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU()))))
    4
    """
    if module is None:
        return []
    try:
        found = _walked(module, with_gaps=False)
    except AttributeError:
        # A part that is None has no parts; few networks have one.
        found = _walked(module, with_gaps=True)
    return found if len(set(found)) == len(found) else list(dict.fromkeys(found))


def _walked(module: nn.Module, with_gaps: bool) -> list[nn.Module]:
    found = [module]
    seen = set()
    for part in found:
        children: Any = part._modules
        # Most have no children; the others are visited once.
        if children and part not in seen:
            seen.add(part)
            inside = children.values()
            found.extend([one for one in inside if one is not None] if with_gaps else inside)
    return found


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` was given, or the module itself.

    A module that hands unknown attributes on to a compiled one is no compiled module.
    """
    # The import takes seconds; a program that compiles has done it.
    frames = sys.modules.get("torch._dynamo.eval_frame")
    if frames is None or not isinstance(module, frames.OptimizedModule):
        return module
    original: nn.Module | None = module._modules["_orig_mod"]
    return module if original is None else original


def changing(found: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules whose attributes a forward pass may set: their class or hooks do so.

    >>> class Counting(nn.ReLU):
    ...     def forward(self, input):
    ...         self.calls = 1
    ...         return super().forward(input)
    >>> changing([nn.ReLU(), nn.Sequential(), Counting()])
    [Counting()]
    """
    own = {kind for kind in set(map(type, found)) if not _is_standard(kind)}
    return [
        part
        for part in found
        if type(part) in own or part._forward_hooks or part._forward_pre_hooks
    ]


def _is_standard(kind: type) -> bool:
    standard = _standard.get(kind)
    if standard is None:
        standard = _standard[kind] = all(map(_adds_no_forward, kind.__mro__[:-1]))
    return standard


def _adds_no_forward(base: type) -> bool:
    """Return True for a class of PyTorch's, and for one that adds data and a constructor alone."""
    return base.__module__.startswith("torch.nn.modules.") or not any(
        callable(one) or hasattr(one, "__get__")
        for name, one in vars(base).items()
        if name not in _BESIDE_FORWARD
    )


def has_own_train(part: nn.Module) -> bool:
    """Return True if a module's `train` or `eval` is not PyTorch's.

    >>> has_own_train(nn.ReLU())
    False
    """
    kind = type(part)
    own = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return own or "train" in vars(part) or "eval" in vars(part)
