"""Time in turns with a clock of the test's own, and counts beside those of the parts."""

from __future__ import annotations

import gc

import pytest
import torch

from evaluation import profiling
from evaluation.memory import count_memory
from evaluation.operations import count_operations
from evaluation.profiling import Quartiles, Timing, count, time_in_turns


class Clock:
    """Stands still but for what the works take; all they did is in `calls`."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.calls: list[str] = []
        monkeypatch.setattr(profiling.time, "perf_counter", lambda: self.now)

    def work(self, name, seconds):
        taken = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(taken)

        return run


def test_samples_are_paired_after_the_warm_up(monkeypatch):
    clock = Clock(monkeypatch)
    # The first call of each, one warm-up round, three rounds; the machine slows down twofold.
    forward = clock.work("forward", [9, 7, 0.1, 0.2, 0.4])
    explain = clock.work("map", [5, 7, 0.11, 0.23, 0.42])
    timing = time_in_turns(forward, explain, rounds=3)
    assert timing.forward_ms == pytest.approx((100, 200, 400))
    assert timing.map_ms == pytest.approx((110, 230, 420))
    assert timing.first_ms == pytest.approx(5000)
    assert timing.threads == torch.get_num_threads()
    # 10 %, 15 %, 5 %: the pairs' median, where the medians' quotient would be 15 %.
    assert timing.overhead_percent == Quartiles(*(pytest.approx(v) for v in (10, 7.5, 12.5)))
    assert timing.added_ms == Quartiles(*(pytest.approx(v) for v in (20, 15, 25)))


def test_turns_change_their_order(monkeypatch):
    clock = Clock(monkeypatch)
    time_in_turns(clock.work("f", [1] * 9), clock.work("m", [1] * 9), rounds=3, warm_up=0)
    assert "".join(clock.calls) == "fm" + "mf" + "fm" + "mf"


def test_garbage_is_not_collected_while_the_clock_runs():
    seen = []
    time_in_turns(lambda: None, lambda: seen.append(gc.isenabled()), rounds=2)
    assert seen == [True, False, False, False]
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_error():
    calls = iter((1, 2))
    with pytest.raises(StopIteration):
        time_in_turns(lambda: None, lambda: next(calls), rounds=5)
    assert gc.isenabled()


def test_a_slow_map_gets_three_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    works = clock.work("f", [1] * 99), clock.work("m", [1] * 99)
    assert len(time_in_turns(*works, rounds=9, limit_s=0.5).map_ms) == 3
    # Two seconds a round, the warm-up's too: the sixth round starts at ten seconds.
    assert len(time_in_turns(*works, rounds=9, limit_s=11).map_ms) == 5
    assert len(time_in_turns(*works, rounds=9, limit_s=99).map_ms) == 9


def test_a_pass_beside_itself_has_a_sample_of_each_a_round():
    def work() -> None:
        return None

    timing = time_in_turns(work, work, rounds=3)
    assert len(timing.forward_ms) == len(timing.map_ms) == 3


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds=0: expected at least 1"):
        time_in_turns(lambda: None, lambda: None, rounds=0)


def test_quartiles_are_those_of_the_raw_samples():
    timing = Timing((1.0, 1.0, 1.0, 1.0, 1.0), (2.0, 3.0, 4.0, 5.0, 6.0), 0.0, 1)
    assert timing.added_ms == Quartiles(3.0, 2.0, 4.0)
    assert timing.overhead_percent == Quartiles(300.0, 200.0, 400.0)


def test_counts_are_those_of_the_two_parts():
    x = torch.rand(8, 8)

    def forward() -> torch.Tensor:
        return x @ x

    def explain() -> torch.Tensor:
        return (x @ x).log2() @ x

    counts = count(forward, explain)
    assert counts.forward == count_operations(forward)
    assert counts.map == count_operations(explain)
    assert counts.map_memory == count_memory(explain)
    assert counts.extra_peak_bytes == 256
    assert counts.extra_scratch_bytes == 512


def test_a_first_call_s_cost_is_not_counted():
    kept: list[torch.Tensor] = []

    def explain() -> torch.Tensor:
        if not kept:
            kept.append(torch.ones(1000).log2())
        return kept[0] + 1

    counts = count(lambda: None, explain)
    assert counts.map.transcendental == 0
    assert counts.extra_peak_bytes == 4000
