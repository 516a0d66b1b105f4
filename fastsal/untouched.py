"""A model held still for one forward pass, and put back as it was.

This module alone touches hooks, training mode and the compiler's stance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

ForwardFunction = Callable[..., Any]


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
