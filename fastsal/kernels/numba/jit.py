"""Compilation of kernels by Numba, and their access to memory.

A kernel is C code with one argument: the address of a task, which holds the addresses of tensors,
kept alive by the caller, and strides in elements. Numba's own calls inspect the types of their
arguments, which between two layers of a network takes longer than the kernel. Numba's threads are
not used, since not all of its threading layers allow several callers at once.
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
    """Return a decorator of Numba that caches compiled code on disk, if the disk can be written."""

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


class CompiledKernel:
    """A kernel as C code: a function of a task's address that releases the interpreter lock.

    Args:
        function: The kernel in Python.

    Attributes:
        address: The address of the code.
        call: Runs the kernel in this thread.
    """

    def __init__(self, function: Callable[[int], None]) -> None:
        self._code = _cached(cfunc)("void(int64)")(function)
        self.address: int = self._code.address
        self.call: Callable[[int], None] = ctypes.CFUNCTYPE(None, ctypes.c_int64)(self.address)


@cache
def compile_kernel(function: Callable[[int], None]) -> CompiledKernel:
    """Return the compiled kernel of a function of a task's address, compiled once."""
    return CompiledKernel(function)


@intrinsic
def pointer(_: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer to numbers or records of a NumPy type."""
    result = types.CPointer(kind.dtype)

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(address, kind), generate


@intrinsic
def _add(_: Any, __: Any) -> Any:
    """Add 1 to the number at an address atomically, and return the number before."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        number = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(types.int64), generate


_TASK = np.dtype(Task)
_CLAIMED, _JOINED = Task.claimed.offset, Task.joined.offset


@compiled()
def claim(task: int) -> int:
    """Return the next unit of a task, or -1 after the last."""
    unit = _add(task + _CLAIMED)
    return unit if unit < carray(pointer(task, _TASK), 1)[0].units else -1


@compiled()
def join(task: int) -> int:
    """Return this thread's number among a task's workers, or -1 if there are enough workers."""
    worker = _add(task + _JOINED)
    return worker if worker < carray(pointer(task, _TASK), 1)[0].workers else -1
