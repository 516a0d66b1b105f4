"""Works timed in turns, by the clock and by the processor, and where they ran."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from evaluation.profiling.timing import Interval

Work = Callable[[], object]


@dataclass(frozen=True)
class Beside:
    """What a work takes beside the first one, from rounds in which both ran.

    Attributes:
        first_ms: The first work's milliseconds by the clock, the median.
        first_processor_ms: The same of processor time.
        clock: The rounds' differences in percent of the round's first work, by the clock.
        processor: The same, by the processor time of the process and all its threads: what other
            processes take does not count.
    """

    first_ms: float
    first_processor_ms: float
    clock: Interval
    processor: Interval


def beside(first: Work, second: Work, rounds: int) -> Beside:
    """Time two works in turns, whose order changes from round to round, after two calls of each.

    >>> beside(lambda: sum(range(1000)), lambda: sum(range(3000)), 7).processor.median > 50
    True
    """
    for work in (first, second) * 2:
        work()
    spent: list[list[tuple[float, float]]] = []
    for turn in range(rounds):
        taken = [(0.0, 0.0)] * 2
        for which in (0, 1) if turn % 2 else (1, 0):
            clock, processor = time.perf_counter(), time.process_time()
            (first, second)[which]()
            taken[which] = time.perf_counter() - clock, time.process_time() - processor
        spent.append(taken)
    added = [
        [100 * (two[kind] / one[kind] - 1) for one, two in spent if one[kind]] for kind in (0, 1)
    ]
    alone = [1000 * float(np.median([one[kind] for one, _ in spent])) for kind in (0, 1)]
    return Beside(alone[0], alone[1], Interval.of(added[0]), Interval.of(added[1]))


def surroundings(packages: Sequence[str]) -> dict[str, str]:
    """Return the processor, the number of cores and the versions of packages.

    >>> surroundings(["torch"])["torch"].split(".")[0]
    '2'
    """
    found = {"processor": _processor(), "cores": str(os.cpu_count())}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
