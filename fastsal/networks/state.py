"""Evaluation mode, hooks and caches for one forward pass, restored afterwards.

No module of fastsal but this one, and those of `keeping`, changes hooks, training mode or the
compiler's stance.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from fastsal.keeping.kept import kept
from fastsal.keeping.parts import parts, uncompiled

ForwardFunction = Callable[..., Any]


class LayerError(ValueError):
    """The error for a layer that cannot be read; the message names it and says why."""


def reading() -> bool:
    """Return True if this thread is in a forward pass of fastsal's own."""
    return getattr(_active, "own", False)


def recomputing() -> bool:
    """Return True within a backward pass, where gradient checkpointing repeats forward passes."""
    return torch._C._current_graph_task_id() != -1


def traced() -> bool:
    """Return True where PyTorch traces a module: jit, export, or a pass of fake tensors."""
    tracing = torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
    return tracing or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def transformed() -> bool:
    """Return True within a transform of torch.func, such as `vmap` or `grad`."""
    return bool(torch._C._are_functorch_transforms_active())


def root_module(forward_func: ForwardFunction) -> nn.Module | None:
    """Return the module under a forward function, or None if there is none.

    A compiled module gives the module that was compiled, a `DataParallel` the one that it copies,
    and a bound method of a module that module.

    >>> root_module(nn.ReLU().forward)
    ReLU()
    """
    owner: Any = forward_func
    # A module may hand unknown attributes on to another.
    if not isinstance(owner, nn.Module):
        owner = getattr(forward_func, "__self__", None)
    if not isinstance(owner, nn.Module):
        return None
    root: nn.Module = uncompiled(owner)
    if isinstance(root, nn.DataParallel):
        root = uncompiled(root.module)
    return root


def method_of(forward_func: ForwardFunction) -> ForwardFunction | None:
    """Return a forward function that is a method of the network itself; None if it is none.

    >>> net = nn.ReLU()
    >>> method_of(net.extra_repr) == net.extra_repr, method_of(net)
    (True, None)
    """
    if isinstance(forward_func, nn.Module):
        return None
    root = root_module(forward_func)
    bound = root is not None and getattr(forward_func, "__self__", None) is root
    return forward_func if bound else None


# Shared by all threads: the compiler's stance with the number of passes that need it.
_lock = threading.Lock()
_stance = ExitStack()
_stance_holders = 0
# This thread's sets of hooks that are called, and whether its pass is one of fastsal's own.
_active = threading.local()


class evaluation_pass:
    """Keep a module in evaluation mode, as `evaluating` does, and its compiled parts eager.

    Autocast's cache of cast weights is off inside: older releases of torch would give weights that
    were cast without gradients to a training step that follows in the same context.

    A class, and not a generator, as `kept` is one: around the pass of a small network each Python
    function that was not called for some milliseconds waits for memory.

    Args:
        module: The module; None for a function.
    """

    def __init__(self, module: nn.Module | None) -> None:
        self._module = module
        self._cast_cache = True
        self._further: ExitStack | None = None

    def __enter__(self) -> None:
        found = parts(self._module)
        self._cast_cache = torch.is_autocast_cache_enabled()
        self._kept = kept(self._module, found)
        self._kept.__enter__()
        # Neither can be without: a program that compiles, or has several processes, has loaded it.
        if "torch._dynamo" in sys.modules or _in_a_group():
            self._further = ExitStack()
            try:
                self._further.enter_context(eager(found))
                self._further.enter_context(alone(found))
            except BaseException:
                self.__exit__()
                raise
        torch.set_autocast_cache_enabled(False)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_cache_enabled(self._cast_cache)
        try:
            if self._further is not None:
                self._further.close()
        finally:
            self._kept.__exit__()


@contextmanager
def evaluating(module: nn.Module | None) -> Iterator[None]:
    """Keep a module in evaluation mode; afterwards it is what it was before, bit for bit.

    `eval()` is called, and what it changed is put back: the flags of each part, which may have been
    mixed, and what a `train()` of the user's own sets. Buffers, attributes and random numbers that
    passes inside the block change are put back too.
    """
    with kept(module, parts(module)):
        yield


@contextmanager
def alone(found: Sequence[nn.Module]) -> Iterator[None]:
    """Keep DistributedDataParallel modules from waiting for other processes.

    Nor do they prepare a backward pass: a map may be made on one process alone, and between two
    training steps.
    """
    # Without a group of processes there is no such module.
    if not _in_a_group():
        yield
        return
    distributed = [part for part in found if isinstance(part, nn.parallel.DistributedDataParallel)]
    names = ("require_backward_grad_sync", "require_forward_param_sync")
    before = [(part, name, getattr(part, name)) for part in distributed for name in names]
    try:
        for part, name, _ in before:
            setattr(part, name, False)
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)


def _in_a_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class Hook:
    """A hook that does nothing in a copy of its module, or in a file of it.

    There it is a function of Python's own, so that the file loads without fastsal.

    Args:
        call: Called with the hook's arguments.

    >>> import copy
    >>> net = nn.ReLU()
    >>> _ = net.register_forward_hook(Hook(lambda *_: print("called")))
    >>> _ = net(torch.ones(1)), copy.deepcopy(net)(torch.ones(1))
    called
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self.call(*arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (nullcontext(), "__exit__")


class hooked:
    """Keep forward hooks on modules.

    They are called in the passes of this thread, and in the copies that `DataParallel` runs in
    other threads. They are not called in another thread's pass through the same modules, nor in a
    pass inside this one that has hooks of its own.

    Args:
        hooks: (module, hook, True for a pre-hook) of each.
        own_pass: True if fastsal runs the pass itself; the passes inside are then not watched. A
            pass of the model's user may have several such sets of hooks.

    Raises:
        LayerError: If a module is scripted or traced, and so calls no hooks.
    """

    def __init__(
        self,
        hooks: Sequence[tuple[nn.Module, Callable[..., Any], bool]],
        own_pass: bool = True,
    ) -> None:
        self._hooks = hooks
        self._own_pass = own_pass
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        self._before = getattr(_active, "sets", ()), reading()
        try:
            # Without the lock two threads could get one number for two hooks.
            with _lock:
                for module, hook, on_input in self._hooks:
                    if isinstance(module, torch.jit.ScriptModule):
                        raise LayerError(
                            f"{module.original_name} is a scripted or traced module, which calls "
                            "no hooks; give the Python module that it was made from"
                        )
                    own = _OwnCalls(module, hook, self)
                    if on_input:
                        handle = module.register_forward_pre_hook(own, with_kwargs=True)
                    else:
                        handle = module.register_forward_hook(own)
                    self._handles.append(handle)
        except BaseException:
            self.__exit__()
            raise
        sets, own_pass = self._before
        _active.sets = (self,) if self._own_pass else (*sets, self)
        _active.own = self._own_pass or own_pass

    def __exit__(self, *_: object) -> None:
        _active.sets, _active.own = self._before
        for handle in self._handles:
            handle.remove()


class _OwnCalls(Hook):
    """A hook that ignores the calls of other passes through its module."""

    def __init__(self, module: nn.Module, call: Callable[..., Any], hook_set: object) -> None:
        super().__init__(call)
        self.module = module
        self.hook_set = hook_set

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        # `DataParallel` runs copies, which are other modules. A call from another pass may lack the
        # keyword arguments, if the hook is removed at this moment.
        if module is self.module and self.hook_set not in getattr(_active, "sets", ()):
            return None
        return self.call(module, *arguments)


def in_other_threads(
    mode: AbstractContextManager[object],
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return a pre-hook and a hook that enter and leave a mode in threads other than this one.

    `DataParallel` runs each copy in a thread of its own, which inherits no mode. If the copy
    raises, that thread ends, and the mode with it.
    """
    owner = threading.get_ident()

    def before(*_: object) -> None:
        if threading.get_ident() != owner:
            mode.__enter__()

    def after(*_: object) -> None:
        if threading.get_ident() != owner:
            mode.__exit__(None, None, None)

    return before, after


def compiled(found: Sequence[nn.Module]) -> bool:
    """Return True if any of a network's modules is compiled."""
    # `getattr` would be slower: it raises inside for every module without the name.
    return any(
        part._compiled_call_impl is not None or "_orig_mod" in part._modules for part in found
    )


def within_compiled() -> bool:
    """Return True inside a compiled function, whose modules call few hooks or none."""
    # The import takes seconds; a program that compiles has done it.
    if "torch._dynamo" not in sys.modules:
        return False
    found = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", None)
    return found is not None and callable(found())


@contextmanager
def eager(found: Sequence[nn.Module]) -> Iterator[None]:
    """Run compiled modules uncompiled, since they call no hooks that were set after compilation.

    The compiler has one stance for all threads: the last to leave restores it.

    Args:
        found: A network's modules; none for a function, which may run a compiled one.
    """
    global _stance_holders
    # A program that compiles has imported this.
    by_function = not found and "torch._dynamo" in sys.modules and not within_compiled()
    if not by_function and not compiled(found):
        yield
        return
    with _lock:
        if not _stance_holders:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _stance_holders += 1
    try:
        yield
    finally:
        with _lock:
            _stance_holders -= 1
            if not _stance_holders:
                _stance.close()
