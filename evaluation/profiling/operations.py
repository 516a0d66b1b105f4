"""How many operations a call takes: PyTorch's count, our own of all it leaves out, the paper's.

Units. `flops` is PyTorch's, of convolutions and matrix products: an addition and a multiplication
are two. He et al. and the paper count a multiply-add as one, half of that. Everything else is
counted by the rules of `evaluation.profiling.operation_rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from evaluation.profiling.operation_rules import ELEMENTWISE, costs_of
from fastsal.kernels.memory import plain

__all__ = ["Operations", "PaperOperations", "count_operations", "paper_operations"]

Work = Callable[[], object]


@dataclass(frozen=True)
class Operations:
    """Operations of a call, all images of its batch together.

    Args:
        flops: of convolutions and matrix products; a multiply-add is two.
        elementwise: arithmetic on each number, pooling, interpolation and BatchNorm.
        transcendental: logarithms, exponentials, roots, error functions.
        reduction: sums, means, spreads, extremes and tests over many numbers.
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
        """Of convolutions and matrix products, as He et al. and the paper count them."""
        return self.flops // 2

    @property
    def other(self) -> int:
        """All but convolutions and matrix products."""
        return self.elementwise + self.transcendental + self.reduction

    def __sub__(self, less: Operations) -> Operations:
        """What one call takes beyond another."""
        kinds = [entry.name for entry in fields(self) if entry.name != "unknown"]
        return Operations(
            **{kind: getattr(self, kind) - getattr(less, kind) for kind in kinds},
            unknown=tuple(sorted({*self.unknown} - {*less.unknown})),
        )


def count_operations(work: Work) -> Operations:
    """Count what a call does, backward passes and hooks included.

    fastsal's fused kernels, which PyTorch does not see into, are counted as the plain PyTorch
    operations that they stand for.

    Args:
        work: what to run. Other code that PyTorch does not see is not counted.

    >>> count_operations(lambda: (torch.ones(2, 3) @ torch.ones(3, 5)).log2().sum())
    Operations(flops=60, elementwise=0, transcendental=10, reduction=10, unknown=())
    """
    meter = _OperationMeter()
    with plain(), meter:
        work()
    return Operations(**meter.counts, unknown=tuple(sorted(meter.unknown)))


class _OperationMeter(TorchDispatchMode):
    """Adds up the operations' costs by kind.

    PyTorch's `FlopCounterMode` also follows modules, with gradient hooks that `autograd.grad`
    refuses where the gradient is that of an input; its formulas are used here by themselves.
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
        # A factor that is given by name takes its place.
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
    """Whether PyTorch says so of an operation, or of the one that it does in place."""
    overload = getattr(getattr(torch.ops.aten, name, None), func._overloadname, None)
    return torch.Tag.pointwise in (*func.tags, *getattr(overload, "tags", ()))


@dataclass(frozen=True)
class PaperOperations:
    """A row of the paper's Table 6: operations for one image, a logarithm counted as one.

    Args:
        statistic: of SMOE Scale.
        normalization: of the normal CDF.
        combination: of upsampling and adding the map to the others.
    """

    statistic: int
    normalization: int
    combination: float

    @property
    def total(self) -> float:
        """Of the three steps."""
        return self.statistic + self.normalization + self.combination


def paper_operations(
    shapes: Sequence[tuple[int, int, int]], size: tuple[int, int]
) -> list[PaperOperations]:
    r"""Return the operations of SMOE Scale by the paper's formulas, a row a scale.

    $$(4 r + 1)\, h w, \qquad 12\, h w, \qquad 4.5\, H W \text{ (first scale) or } 6.75\, H W$$

    for the statistic, the normalisation and the combination of a scale of `r` channels and
    `h x w` locations. Deviations from the paper: none.

    Args:
        shapes: (r, h, w) of each scale, the shallowest first.
        size: (H, W) of the image.

    Returns:
        A row for each scale.

    Reference:
        Mundhenk, Chen & Friedland, "Efficient Saliency Maps for Explainable AI", Table 6.

    >>> paper_operations([(64, 112, 112)], (224, 224))[0].statistic
    3223808
    """
    pixels = size[0] * size[1]
    return [
        PaperOperations(
            statistic=(4 * channels + 1) * height * width,
            normalization=12 * height * width,
            combination=(4.5 if index == 0 else 6.75) * pixels,
        )
        for index, (channels, height, width) in enumerate(shapes)
    ]
