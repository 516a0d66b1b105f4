"""Timing in turns with a clock of the test's own, and intervals by the book."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from evaluation.profiling import timing as module
from evaluation.profiling.timing import Interval, Quartiles, Timing, added_time, time_in_turns


class Clock:
    """A clock that only timed calls advance; `calls` lists them."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        self.calls: list[str] = []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

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


# Ranks of the ends of the 95 % interval of a median, from printed tables of the sign test.
@pytest.mark.parametrize(
    ("samples", "rank"), [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (50, 18)]
)
def test_the_interval_of_a_median_is_that_of_the_tables(samples, rank):
    ordered = [float(value) for value in range(1, samples + 1)]
    found = Interval.of(ordered[::2] + ordered[1::2])
    assert (found.low, found.high) == (rank, samples + 1 - rank)
    assert found.covers == 0.95


def test_a_few_samples_have_no_such_interval():
    found = Interval.of([4.0, 1.0, 9.0])
    # All three are on one side of the median once in four times.
    assert (found.low, found.high, found.covers) == (1.0, 9.0, 0.75)


def test_intervals_hold_the_median_as_often_as_they_say():
    draws = np.random.default_rng(0).exponential(size=(2000, 15))
    found = [Interval.of(row) for row in draws]
    held = np.mean([one.low <= np.log(2) <= one.high for one in found])
    # Of 15 samples between the 4th and the 12th: 1 - 2 P(B <= 3) = 0.965.
    assert held == pytest.approx(0.965, abs=0.012)


def test_a_sign_is_known_where_0_lies_outside():
    assert Interval(1.0, 0.5, 2.0, 0.95).excludes_zero
    assert Interval(-1.0, -3.0, -0.5, 0.95).excludes_zero
    assert not Interval(1.0, -0.5, 2.0, 0.95).excludes_zero
    assert not Interval(-1.0, -3.0, 0.0, 0.95).excludes_zero


def test_quotients_are_paired_by_round():
    timing = Timing((1.0, 2.0, 4.0), (3.0, 8.0, 4.0), 0.0, 1)
    # 3, 4 and 1, where the quotient of the medians would be 2.
    assert timing.ratio == Interval(3.0, 1.0, 4.0, 0.75)
    assert timing.overhead_interval == Interval(200.0, 0.0, 300.0, 0.75)


def test_a_long_first_call_is_warm_up_enough(monkeypatch):
    clock = Clock(monkeypatch)
    time_in_turns(clock.work("f", [1] * 9), clock.work("m", [30] * 9), rounds=2, limit_s=100)
    assert "".join(clock.calls) == "fm" + "mf" + "fm"
    clock.calls.clear()
    time_in_turns(clock.work("f", [1] * 9), clock.work("m", [20] * 9), rounds=2, limit_s=100)
    assert "".join(clock.calls) == "fm" + "mf" + "fm" + "mf"


def test_cuda_s_clock_waits_for_the_device_and_takes_its_own_time(monkeypatch):
    """The order of calls alone: there is no device here."""
    said = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            self.name = f"event {sum(line.startswith('new') for line in said)}"
            said.append(f"new {self.name}")

        def record(self):
            said.append(f"record {self.name}")

        def elapsed_time(self, after):
            said.append(f"{self.name} to {after.name}")
            return 7.5

    class Device:
        def __init__(self, device):
            said.append(f"on {device}")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append(f"wait {device}"))
    timing = time_in_turns(
        lambda: None, lambda: said.append("map"), rounds=1, warm_up=0, device="cuda:1"
    )
    assert timing.first_ms == 7.5
    assert said[: said.index("event 0 to event 1") + 1] == [
        *("new event 0", "new event 1", "on cuda:1", "wait cuda:1", "record event 0", "map"),
        *("record event 1", "wait cuda:1", "event 0 to event 1"),
    ]
    assert timing.map_ms == timing.forward_ms == (7.5,)


def test_two_calls_are_timed_in_turns_that_change():
    ran = []
    taken = added_time(lambda: ran.append("first"), lambda: ran.append("second"), 4)
    # Two calls of each to warm up, then pairs whose order changes.
    assert ran[4:] == ["second", "first", "first", "second"] * 2
    assert taken.clock.low <= taken.clock.median <= taken.clock.high
