"""How kernels are compiled, by Numba, and reach a tensor's memory.

Tensors come as addresses, which the caller keeps alive, and strides in elements. Every kernel takes
a range of its work, so that several threads can share it, and runs without the interpreter's lock.
Numba's own threads are not used: not all of its threading layers bear several callers at once.
All arguments are plain numbers or arrays: Numba looks at the types of each call, and of a tuple or
a class that takes as long, between two layers of a network, as the kernel itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types
from numba.extending import intrinsic


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return Numba's decorator, with its cache on disk where one can be written."""

    def decorate(function: Callable[..., Any]) -> Any:
        options.update(nogil=True, error_model="numpy")
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:
            return njit(**options)(function)

    return decorate


@intrinsic
def pointer(_: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer to numbers of a kind: a NumPy type, or a number of it."""
    result = types.CPointer(kind.dtype if isinstance(kind, types.NumberClass) else kind)

    def generate(context: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(address, kind), generate
