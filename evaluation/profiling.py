"""What a map costs: time, operations and memory beside the plain forward pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

__all__ = ["Profile", "count_flops", "peak_bytes", "profile"]

Work = Callable[[], object]


@dataclass(frozen=True)
class Profile:
    """Cost of one call, all images of its batch together.

    Args:
        forward_ms: median milliseconds of the plain forward pass.
        map_ms: median milliseconds of the map, its own forward passes included.
        map_flops: floating-point operations of the map's convolutions and matrix products,
            an addition and a multiplication counted as two; other operations are not counted.
        extra_peak_bytes: how much higher the peak of live tensor storages is for the map than
            for the plain forward pass; never below 0.
    """

    forward_ms: float
    map_ms: float
    map_flops: int
    extra_peak_bytes: int


def profile(forward: Work, explain: Work, *, rounds: int = 9) -> Profile:
    """Measure a map beside the plain forward pass, in turns, so that a drift hits both.

    Args:
        forward: runs the network on a batch, without gradients.
        explain: makes the maps of the same batch.
        rounds: timed rounds; the median of each is kept.

    >>> square = torch.ones(8, 8)
    >>> profile(lambda: square @ square, lambda: square @ square @ square, rounds=1).map_flops
    2048
    """
    forward(), explain()  # the first call of each also traces and allocates
    seconds: dict[Work, list[float]] = {forward: [], explain: []}
    for _ in range(rounds):
        for work, taken in seconds.items():
            started = time.perf_counter()
            work()
            _finish_device_work()
            taken.append(time.perf_counter() - started)
    return Profile(
        forward_ms=1000.0 * median(seconds[forward]),
        map_ms=1000.0 * median(seconds[explain]),
        map_flops=count_flops(explain),
        extra_peak_bytes=max(0, peak_bytes(explain) - peak_bytes(forward)),
    )


def count_flops(work: Work) -> int:
    """Operations of all convolutions and matrix products of a call, backward passes included.

    >>> count_flops(lambda: torch.ones(2, 3) @ torch.ones(3, 5))
    60
    """
    with _FlopMeter() as meter:
        work()
    total: int = meter.total
    return total


def peak_bytes(work: Work) -> int:
    """Most bytes of tensor storages that a call allocates and that are alive together.

    Counted from every operation's outputs, so that it is the same in every run; what was
    there before the call, and scratch memory inside an operation, do not count.

    >>> peak_bytes(lambda: torch.ones(1000) + torch.ones(1000))
    12000
    """
    with _StorageMeter() as meter:
        result = work()
    del result
    peak: int = meter.peak
    return peak


class _FlopMeter(TorchDispatchMode):
    """Adds up PyTorch's own formulas of operations.

    Its `FlopCounterMode` also follows modules, with gradient hooks that `autograd.grad`
    refuses where the gradient is that of an input.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += int(formula(*args, **kwargs, out_val=result))
        return result


class _StorageMeter(TorchDispatchMode):
    """Follows every storage that an operation returns, until nothing refers to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        before = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for key in [key for key, (reference, _) in self._live.items() if _gone(reference)]:
            del self._live[key]
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                # A view or an in-place result brings no memory of its own.
                if storage._cdata not in before and storage._cdata not in self._live:
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self._live[storage._cdata] = (reference, storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def _gone(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]


def _finish_device_work() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
