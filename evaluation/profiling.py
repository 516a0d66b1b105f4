"""What a map costs beside the plain forward pass: time in turns, operations and memory counted."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from evaluation.memory import Memory, count_memory
from evaluation.operations import Operations, count_operations

__all__ = ["Counts", "Quartiles", "Timing", "count", "time_in_turns"]

Work = Callable[[], object]

_FEWEST_ROUNDS = 3


@dataclass(frozen=True)
class Quartiles:
    """Where the middle half of some samples is.

    >>> Quartiles.of([4.0, 1.0, 2.0, 3.0, 5.0])
    Quartiles(median=3.0, low=2.0, high=4.0)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Quartiles:
        """The median and the two quartiles of samples."""
        low, median, high = np.percentile(samples, (25, 50, 75)).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call beside the plain forward pass, all images of its batch together.

    Args:
        forward_ms: of the plain forward pass, one sample a round.
        map_ms: of the map in the same round, its own forward passes included.
        first_ms: of the very first call of the map, whatever it compiles or looks up included.
        threads: that PyTorch ran on.

    >>> timing = Timing((100.0, 200.0, 100.0), (101.0, 204.0, 103.0), 900.0, 1)
    >>> timing.overhead_percent.median, timing.added_ms.median
    (2.0, 3.0)
    """

    forward_ms: tuple[float, ...]
    map_ms: tuple[float, ...]
    first_ms: float
    threads: int

    @property
    def added_ms(self) -> Quartiles:
        """Of the rounds' differences: map less forward pass."""
        pairs = zip(self.forward_ms, self.map_ms, strict=True)
        return Quartiles.of([explained - forward for forward, explained in pairs])

    @property
    def overhead_percent(self) -> Quartiles:
        """Of the rounds' differences in percent of the round's forward pass."""
        pairs = zip(self.forward_ms, self.map_ms, strict=True)
        return Quartiles.of([100 * (explained - forward) / forward for forward, explained in pairs])


@dataclass(frozen=True)
class Counts:
    """What is counted of a map and of the plain forward pass; the same in every run.

    Args:
        forward: operations of the forward pass.
        map: operations of the map, its own forward passes included.
        forward_memory: bytes of the forward pass.
        map_memory: bytes of the map.
    """

    forward: Operations
    map: Operations
    forward_memory: Memory
    map_memory: Memory

    @property
    def extra_peak_bytes(self) -> int:
        """How much higher the peak of live storages is than the forward pass's; at least 0."""
        return max(0, self.map_memory.peak_bytes - self.forward_memory.peak_bytes)

    @property
    def extra_scratch_bytes(self) -> int:
        """The same, what the map and the forward pass return left out."""
        return max(0, self.map_memory.scratch_bytes - self.forward_memory.scratch_bytes)


def time_in_turns(
    forward: Work,
    explain: Work,
    *,
    rounds: int = 9,
    warm_up: int = 1,
    limit_s: float = math.inf,
    device: str = "cpu",
) -> Timing:
    """Time a map and the plain forward pass in turns, so that a drift hits both.

    Each round runs both, the order changing from round to round. Python's garbage is collected
    before and not during the rounds. On CUDA each sample ends when the device has finished.

    Args:
        forward: runs the network on a batch, without gradients.
        explain: makes the maps of the same batch.
        rounds: pairs of samples.
        warm_up: rounds before that are not kept, after the first call of each.
        limit_s: no further round starts after so many seconds, once there are three.
        device: where the network is.

    Raises:
        ValueError: fewer than one round.

    >>> square = torch.ones(8, 8)
    >>> len(time_in_turns(lambda: square @ square, lambda: square.sum(), rounds=3).map_ms)
    3
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    finish = _finisher(device)
    forward()
    first_ms = _milliseconds(explain, finish)
    plain: tuple[Work, list[float]] = forward, []
    map_: tuple[Work, list[float]] = explain, []
    with _garbage_kept():
        started = time.perf_counter()
        for turn in range(warm_up + rounds):
            if turn >= warm_up + _FEWEST_ROUNDS and time.perf_counter() - started > limit_s:
                break
            for work, samples in (plain, map_) if turn % 2 else (map_, plain):
                taken = _milliseconds(work, finish)
                if turn >= warm_up:
                    samples.append(taken)
    return Timing(
        forward_ms=tuple(plain[1]),
        map_ms=tuple(map_[1]),
        first_ms=first_ms,
        threads=torch.get_num_threads(),
    )


def count(forward: Work, explain: Work) -> Counts:
    """Count operations and memory of a map beside the plain forward pass.

    Args:
        forward: runs the network on a batch, without gradients.
        explain: makes the maps of the same batch; called once before, so that what it looks up
            at its first call does not count.

    >>> square = torch.ones(8, 8)
    >>> counts = count(lambda: square @ square, lambda: square @ square @ square)
    >>> (counts.map - counts.forward).flops, counts.extra_peak_bytes
    (1024, 256)
    """
    forward(), explain()
    return Counts(
        forward=count_operations(forward),
        map=count_operations(explain),
        forward_memory=count_memory(forward),
        map_memory=count_memory(explain),
    )


def _milliseconds(work: Work, finish: Callable[[], None]) -> float:
    finish()
    started = time.perf_counter()
    result = work()
    finish()
    taken = 1000.0 * (time.perf_counter() - started)
    del result  # freed after the clock has stopped, whatever its size
    return taken


def _finisher(device: str) -> Callable[[], None]:
    """What waits until a device has finished its work."""
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect garbage now and not until the end."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
