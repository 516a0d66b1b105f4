"""Memory of a call: tensor storages from the operation that makes them until they are freed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Memory", "allocated_peak_bytes", "count_memory", "peak_bytes"]


@dataclass(frozen=True)
class Memory:
    """Bytes of tensor storages that a call makes.

    Args:
        peak_bytes: most bytes that are alive together.
        scratch_bytes: most bytes that are alive together, without the returned storages.
        returned_bytes: bytes of the returned storages.
    """

    peak_bytes: int
    scratch_bytes: int
    returned_bytes: int


def count_memory(call: Callable[[], object]) -> Memory:
    """Count the bytes of all storages that a call makes, deterministically.

    Counted are the results of all operations, those of backward passes and hooks included, with
    their size after each operation that touches them. Not counted are storages from before the
    call, and memory that an operation takes and frees by itself, such as the reordered weights of a
    convolution: `allocated_peak_bytes` counts it. Runs on one thread, so that the scratch memory
    of further threads does not depend on their timing.

    Args:
        call: the call to count.

    >>> count_memory(lambda: torch.ones(1000) + torch.ones(1000))
    Memory(peak_bytes=12000, scratch_bytes=8000, returned_bytes=4000)
    """
    meter = _StorageMeter()
    with _one_thread(), meter:
        result = call()
        returned = {
            serial
            for leaf in tree_leaves(result)
            if isinstance(leaf, torch.Tensor)
            if (serial := meter.serial(leaf)) is not None
        }
        return meter.memory(returned)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most bytes of tensor storages that a call makes and that are alive together.

    >>> peak_bytes(lambda: torch.ones(1000) + torch.ones(1000))
    12000
    """
    return count_memory(call).peak_bytes


def allocated_peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """Peak bytes of PyTorch's allocator during a call.

    Includes memory inside operations (reordered weights, workspaces), so that it depends on the
    libraries that PyTorch was built with.

    Args:
        call: the call to measure.
        device: device of the memory.

    >>> allocated_peak_bytes(lambda: torch.ones(1000) + torch.ones(1000))
    12000
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    recorded = profiler.profiler
    if recorded is None or recorded.kineto_results is None:
        raise RuntimeError("this PyTorch was built without its profiler, which counts allocations")
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events), default=0)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _StorageMeter(TorchDispatchMode):
    """Follows every storage that an operation returns until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By address: the storage, its serial number, its bytes. An address is not reused while a
        # weak reference is held.
        self._live: dict[int, tuple[StorageWeakRef, int, int]] = {}
        self._made = 0
        # After each operation that changed anything: number of the storage, change in bytes.
        self._changes: list[list[tuple[int, int]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        del types
        given = {
            storage._cdata: (storage, storage.nbytes())
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and (storage := _storage(leaf)) is not None
        }
        result = func(*args, **(kwargs or {}))
        changes = self._freed()
        for address, (storage, before) in given.items():
            # Operations in place may resize; storages from before the call count by their growth.
            grown = storage.nbytes() - before
            if grown:
                changes.append(self._follow(address, storage, grown))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or (storage := _storage(leaf)) is None:
                continue
            # A view or a result in place has no memory of its own.
            if storage._cdata not in given and storage._cdata not in self._live:
                changes.append(self._follow(storage._cdata, storage, storage.nbytes()))
        if changes:
            self._changes.append(changes)
        return result

    def _follow(self, address: int, storage: Any, more: int) -> tuple[int, int]:
        """Start to follow a storage, or add to its size."""
        reference, serial, size = self._live.get(address, (None, self._made, 0))
        if reference is None:
            reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            self._made += 1
        self._live[address] = reference, serial, size + more
        return serial, more

    def _freed(self) -> list[tuple[int, int]]:
        gone = [address for address, (reference, *_) in self._live.items() if _expired(reference)]
        return [(serial, -size) for _, serial, size in map(self._live.pop, gone)]

    def serial(self, tensor: torch.Tensor) -> int | None:
        """The number of a tensor's storage; None for storages from before the call."""
        storage = _storage(tensor)
        found = None if storage is None else self._live.get(storage._cdata)
        return None if found is None else found[1]

    def memory(self, returned: set[int]) -> Memory:
        """The peaks of all followed storages, with and without the returned ones."""
        everything, besides = [0], [0]
        for changes in self._changes:
            everything.append(everything[-1] + sum(size for _, size in changes))
            own = sum(size for serial, size in changes if serial not in returned)
            besides.append(besides[-1] + own)
        return Memory(
            peak_bytes=max(everything),
            scratch_bytes=max(besides),
            returned_bytes=sum(size for _, s, size in self._live.values() if s in returned),
        )


def _storage(tensor: torch.Tensor) -> Any:
    """A tensor's storage; None for a tensor without one, such as a sparse tensor."""
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _expired(reference: StorageWeakRef) -> bool:
    return bool(reference.expired())  # type: ignore[no-untyped-call]
