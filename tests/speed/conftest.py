"""What the benchmarks share: sizes, and how often they run."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def timed(request) -> bool:
    """Whether times are taken; else each benchmark runs once and may be small."""
    return not request.config.option.benchmark_disable


@pytest.fixture
def measure(benchmark, timed) -> Callable[..., object]:
    """Run work as one line of a group, after one call that is not timed."""

    def run(group: str, work: Callable[[], object], *, rounds: int = 15, images: int = 1) -> object:
        benchmark.group = group
        benchmark.extra_info["images"] = images
        return benchmark.pedantic(work, rounds=rounds, warmup_rounds=1 if timed else 0)

    return run
