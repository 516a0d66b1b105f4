"""How kernels are compiled, by Numba, and reach a tensor's memory.

Tensors come as addresses, which the caller keeps alive, and strides in elements, all in one task:
a kernel takes the task's address alone, and is called as C code. Numba's own calls look at the
types of their arguments, which between two layers of a network takes longer than the kernel.
Its own threads are not used: not all of its threading layers bear several callers at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from fastsal.kernels.tasks import Task


def _cached(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """Return Numba's decorator with its cache on disk, where one can be written."""

    def decorate(*signature: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        options.update(error_model="numpy")

        def compile_(function: Callable[..., Any]) -> Any:
            try:
                return decorator(*signature, cache=True, **options)(function)
            except RuntimeError:
                return decorator(*signature, **options)(function)

        return compile_

    return decorate


compiled = _cached(njit)


class Entry:
    """A kernel as C code: called with a task's address, without the interpreter's lock.

    Attributes:
        address: The code's.
        call: Runs it in this thread.
    """

    def __init__(self, function: Callable[[int], None]) -> None:
        self._code = _cached(cfunc)("void(int64)")(function)
        self.address: int = self._code.address
        self.call: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_int64)(self.address)


@cache
def entry(function: Callable[[int], None]) -> Entry:
    """Return a function of a task's address as C code, compiled once."""
    return Entry(function)


@intrinsic
def pointer(_: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer to numbers, or records, of a NumPy type."""
    result = types.CPointer(kind.dtype)

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(address, kind), generate


@intrinsic
def _add(_: Any, __: Any) -> Any:
    """Add 1 to the number at an address, and return what it was; no other thread gets the same."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        number = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), generate


_TASK = np.dtype(Task)
_CLAIMED, _JOINED = Task.claimed.offset, Task.joined.offset


@compiled()
def claim(task: int) -> int:
    """Return the next unit of a task's work, or -1 after the last."""
    unit = _add(task + _CLAIMED)
    return unit if unit < carray(pointer(task, _TASK), 1)[0].units else -1


@compiled()
def join(task: int) -> int:
    """Return which of a task's workers this thread is, or -1 where there are enough."""
    worker = _add(task + _JOINED)
    return worker if worker < carray(pointer(task, _TASK), 1)[0].workers else -1
