"""Timing of two calls in turns, paired by round, such as a map and the plain forward pass."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import quantile_test

__all__ = ["AddedTime", "Call", "Interval", "Quartiles", "Timing", "added_time", "time_in_turns"]

Call = Callable[[], object]
Sample = TypeVar("Sample")

_FEWEST_ROUNDS = 3
_LEVEL = 0.95
# Share of the limit from which a first call is warm-up enough.
_LONG_CALL = 0.25


@dataclass(frozen=True)
class Quartiles:
    """The median and the quartiles of samples.

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
class Interval:
    r"""The median of samples with its 95 % confidence interval from order statistics.

    $$[x_{(k)}, x_{(n + 1 - k)}], \qquad
      k = \max \{k : 2 P(B \le k - 1) \le 0.05\}, \quad B \sim \mathrm{Bin}(n, 1/2)$$

    The samples are assumed to be independent, nothing else. Fewer than six have no such interval:
    it is then from the least to the greatest.

    Args:
        median: median of the samples.
        low: lower end.
        high: upper end.
        covers: probability that the interval holds the true median: 0.95 (or a little more), less
            for too few samples.

    Reference:
        Conover, "Practical Nonparametric Statistics", 1999, section 3.2.

    >>> Interval.of([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0])
    Interval(median=5.0, low=2.0, high=8.0, covers=0.95)
    >>> Interval.of([3.0, -1.0, 2.0])
    Interval(median=2.0, low=-1.0, high=3.0, covers=0.75)
    """

    median: float
    low: float
    high: float
    covers: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Interval:
        """The median of samples and its interval."""
        ends = quantile_test(samples, p=0.5).confidence_interval(_LEVEL)
        few = math.isnan(ends.low)
        return cls(
            median=float(np.median(samples)),
            low=float(min(samples) if few else ends.low),
            high=float(max(samples) if few else ends.high),
            covers=1 - 0.5 ** (len(samples) - 1) if few else _LEVEL,
        )

    @property
    def excludes_zero(self) -> bool:
        """True if 0 lies outside the interval, so that the sign is known."""
        return not self.low <= 0 <= self.high


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a map and of the plain forward pass, for all images of a batch together.

    Args:
        forward_ms: time of the plain forward pass, one sample a round.
        map_ms: time of the map in the same round, its own forward passes included.
        first_ms: time of the very first call of the map, compilation and setup included.
        threads: number of PyTorch's threads.

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
        """Quartiles of the rounds' differences: map minus forward pass."""
        pairs = zip(self.forward_ms, self.map_ms, strict=True)
        return Quartiles.of([explained - forward for forward, explained in pairs])

    @property
    def overhead_percent(self) -> Quartiles:
        """Quartiles of the rounds' differences in percent of the forward pass."""
        return Quartiles.of(self._overheads)

    @property
    def overhead_interval(self) -> Interval:
        """Median and confidence interval of the differences in percent."""
        return Interval.of(self._overheads)

    @property
    def ratio(self) -> Interval:
        """Median and confidence interval of the rounds' ratios: map over forward pass."""
        return Interval.of(
            [map_ / forward for forward, map_ in zip(self.forward_ms, self.map_ms, strict=True)]
        )

    @property
    def _overheads(self) -> list[float]:
        pairs = zip(self.forward_ms, self.map_ms, strict=True)
        return [100 * (explained - forward) / forward for forward, explained in pairs]


@dataclass(frozen=True)
class AddedTime:
    """Time that a second call takes beyond a first, from rounds in which both ran.

    Args:
        first_ms: median milliseconds of the first call by the clock.
        first_processor_ms: the same in processor time.
        clock: the rounds' differences in percent of the round's first call, by the clock.
        processor: the same in processor time of this process and all its threads, which other
            processes do not add to.
    """

    first_ms: float
    first_processor_ms: float
    clock: Interval
    processor: Interval


def time_in_turns(
    forward: Call,
    explain: Call,
    *,
    rounds: int = 9,
    warm_up: int = 1,
    limit_s: float = math.inf,
    device: str = "cpu",
) -> Timing:
    """Time a map and the plain forward pass in turns, so that drift affects both.

    Each round runs both, in alternating order. Python's garbage is collected before and not during
    the rounds. On CUDA each sample is the time on the device between two events, the device idle
    before the first: the host's time to launch kernels counts.

    Args:
        forward: runs the network on a batch, without gradients.
        explain: makes the maps of the same batch.
        rounds: pairs of samples.
        warm_up: discarded rounds after the first call of each; none if the first call alone took
            a quarter of the limit.
        limit_s: seconds after which no further round starts, once there are three.
        device: device of the network.

    Raises:
        ValueError: fewer than one round.

    >>> square = torch.ones(8, 8)
    >>> len(time_in_turns(lambda: square @ square, lambda: square.sum(), rounds=3).map_ms)
    3
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    milliseconds = _cuda_milliseconds(device) if _is_cuda(device) else _milliseconds
    forward()
    first_ms = milliseconds(explain)
    if first_ms > 1000 * _LONG_CALL * limit_s:
        warm_up = 0
    with _garbage_kept():
        started = time.perf_counter()
        pairs = []
        for turn in range(warm_up + rounds):
            if turn >= warm_up + _FEWEST_ROUNDS and time.perf_counter() - started > limit_s:
                break
            pairs.append(_round(forward, explain, turn, milliseconds))
    samples = pairs[warm_up:]
    return Timing(
        forward_ms=tuple(plain for plain, _ in samples),
        map_ms=tuple(explained for _, explained in samples),
        first_ms=first_ms,
        threads=torch.get_num_threads(),
    )


def added_time(first: Call, second: Call, rounds: int) -> AddedTime:
    """Time two calls in turns by the clock and by the processor, after two calls of each.

    Args:
        first: the call that the other is compared with.
        second: the call that is compared.
        rounds: pairs of samples; the order changes from round to round.

    >>> added_time(lambda: sum(range(1000)), lambda: sum(range(3000)), 7).processor.median > 50
    True
    """
    for call in (first, second) * 2:
        call()
    pairs = [_round(first, second, turn, _clock_and_processor) for turn in range(rounds)]
    added = [
        [100 * (two[kind] / one[kind] - 1) for one, two in pairs if one[kind]] for kind in (0, 1)
    ]
    alone = [1000 * float(np.median([one[kind] for one, _ in pairs])) for kind in (0, 1)]
    return AddedTime(alone[0], alone[1], Interval.of(added[0]), Interval.of(added[1]))


def _round(
    first: Call, second: Call, turn: int, sample: Callable[[Call], Sample]
) -> tuple[Sample, Sample]:
    """One sample of each call; the second call runs first in every other round."""
    if turn % 2:
        one = sample(first)
        return one, sample(second)
    two = sample(second)
    return sample(first), two


def _clock_and_processor(call: Call) -> tuple[float, float]:
    """Seconds of a call by the clock, and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processor


def _milliseconds(call: Call) -> float:
    started = time.perf_counter()
    result = call()
    taken = 1000.0 * (time.perf_counter() - started)
    del result  # freed after the clock has stopped
    return taken


def _is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def _cuda_milliseconds(device: str) -> Callable[[Call], float]:
    """A function that times a call by CUDA events."""

    def milliseconds(call: Call) -> float:
        before = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        after = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            torch.cuda.synchronize(device)
            before.record()
            result = call()
            after.record()
            torch.cuda.synchronize(device)
        del result
        return float(before.elapsed_time(after))

    return milliseconds


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Collect garbage now and turn collection off until the end of the context."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
