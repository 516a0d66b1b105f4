"""Operations of a call: PyTorch's FLOP count, and all operations that it leaves out.

Units: `flops` is PyTorch's count of convolutions and matrix products, in which an addition and a
multiplication are two. He et al. and the paper count a multiply-add as one, half of that. All other
operations are counted by the rules of `evaluation.profiling.operation_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from evaluation.profiling.operation_rules import ELEMENTWISE, costs_of
from fastsal.kernels.memory import without_kernels

__all__ = ["Operations", "count_operations"]


@dataclass(frozen=True)
class Operations:
    """Operations of a call, all images of its batch together.

    Args:
        flops: operations of convolutions and matrix products; a multiply-add is two.
        elementwise: elementwise arithmetic, pooling, interpolation and BatchNorm.
        transcendental: logarithms, exponentials, roots, error functions.
        reduction: sums, means, variances, extrema and tests over many elements.
        unknown: names of operations that no rule covers; they are not counted.

    >>> Operations(flops=60) - Operations(flops=20)
    Operations(flops=40, elementwise=0, transcendental=0, reduction=0, unknown=())
    """

    flops: int = 0
    elementwise: int = 0
    transcendental: int = 0
    reduction: int = 0
    unknown: tuple[str, ...] = ()

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and matrix products, as He et al. and the paper count."""
        return self.flops // 2

    @property
    def other(self) -> int:
        """All operations but convolutions and matrix products."""
        return self.elementwise + self.transcendental + self.reduction

    def __sub__(self, less: Operations) -> Operations:
        """The operations of one call beyond another."""
        kinds = [entry.name for entry in fields(self) if entry.name != "unknown"]
        return Operations(
            **{kind: getattr(self, kind) - getattr(less, kind) for kind in kinds},
            unknown=tuple(sorted({*self.unknown} - {*less.unknown})),
        )


def count_operations(call: Callable[[], object]) -> Operations:
    """Count the operations of a call, backward passes and hooks included.

    fastsal's fused kernels, which PyTorch cannot inspect, are counted as the plain operations that
    they replace, and so are fused attention and PyTorch's fused transformer layers.

    Args:
        call: the call to count. Other code that PyTorch cannot inspect is not counted.

    >>> count_operations(lambda: (torch.ones(2, 3) @ torch.ones(3, 5)).log2().sum())
    Operations(flops=60, elementwise=0, transcendental=10, reduction=10, unknown=())
    """
    meter = _OperationMeter()
    with without_kernels(), _without_fused_attention(), meter:
        call()
    return Operations(**meter.counts, unknown=tuple(sorted(meter.unknown)))


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """Let attention run as matrix products and a softmax, which all have a count."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _OperationMeter(TorchDispatchMode):
    """Sums the costs of operations by kind.

    PyTorch's `FlopCounterMode` also follows modules, with gradient hooks that `autograd.grad`
    refuses if the gradient is that of an input; only its formulas are used here.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = dict.fromkeys(("flops", "elementwise", "transcendental", "reduction"), 0)
        self.unknown: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        name = func._overloadpacket.__name__
        name = name if name.startswith("__") else name.rstrip("_")
        # A factor given by keyword takes its position.
        arguments = (*args, *([kwargs["alpha"]] if "alpha" in kwargs else []))
        costs = {} if formula is not None else costs_of(name, arguments)
        if costs is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.counts["flops"] += int(formula(*args, **kwargs, out_val=result))
            return result
        if costs is None and _is_pointwise(func, name):
            costs = ELEMENTWISE
        if costs is None:
            self.unknown.add(name)
        elif costs:
            tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            for kind, cost in costs.items():
                self.counts[kind] += cost(arguments, tensors)
        return result


def _is_pointwise(func: Any, name: str) -> bool:
    """True if PyTorch tags the operation, or its out-of-place form, as pointwise."""
    overload = getattr(getattr(torch.ops.aten, name, None), func._overloadname, None)
    return torch.Tag.pointwise in (*func.tags, *getattr(overload, "tags", ()))
