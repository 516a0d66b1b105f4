"""Order, failures and restarts: first with cells that do nothing, then with the real command."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from comparisons.cells.cell import Cell
from comparisons.engines import select
from comparisons.engines.engine import Event, WorkerLost, execute
from comparisons.engines.resources import Resources
from comparisons.engines.select import Engine
from comparisons.estimates.throughput import given
from comparisons.graph.nodes import Node, build_nodes
from comparisons.methods import METHODS, Method
from comparisons.plans.plan import Plan
from comparisons.runs import compare
from comparisons.runs.compare import RunError, run_plan
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

ROOT = Path(__file__).parents[3]
# Networks of one epoch on a hundred images learn nothing, of which the report warns.
pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::UserWarning")]
PATIENCE_S = 570  # of a wait that a loaded machine may stretch; nothing is timed


# Cells that do nothing.


def _node(name: str, *needs: str, priority: int = 0, alone: bool = False) -> Node:
    def make(done) -> Cell:
        return Cell("fake", {"name": name, "alone": alone, "read": [done[n].id for n in needs]})

    return Node(name, "fake", needs, (priority, 0, 0), 1, make, alone)


class FakeExecutor:
    """Finishes every cell at once, and remembers the order."""

    slots = 1

    def __init__(self, fails: dict[str, Exception] | None = None) -> None:
        self.fails = fails or {}
        self.started: list[str] = []

    def submit(self, cell: Cell) -> Future[CellResult]:
        name = cell.spec["name"]
        self.started.append(name)
        future: Future[CellResult] = Future()
        if name in self.fails:
            future.set_exception(self.fails[name])
        else:
            future.set_result(CellResult(cell.id, "fake", cell.spec, ()))
        return future


class SlowExecutor:
    """Finishes its oldest cell only when another one comes, or nothing else is left to come."""

    def __init__(self, slots: int, cells: int) -> None:
        self.slots = slots
        self.left = cells
        self.running: dict[str, Future[CellResult]] = {}
        self.together: list[set[str]] = []

    def submit(self, cell: Cell) -> Future[CellResult]:
        future: Future[CellResult] = Future()
        self.running[cell.spec["name"]] = future
        self.together.append(set(self.running))
        self.left -= 1
        # A cell that must be alone, or a full house, has nothing more to wait for.
        if len(self.running) == self.slots or self.left == 0 or cell.spec["alone"]:
            for name in list(self.running):
                self.running.pop(name).set_result(CellResult(name, "fake", {}, ()))
        return future


def _names(events: list[Event], kind: str) -> list[str]:
    return [event.node.name for event in events if event.kind == kind]


def test_needs_come_first_and_then_the_most_urgent(tmp_path):
    nodes = [
        _node("late", priority=9),
        _node("last", "mid", priority=0),
        _node("mid", "first", priority=5),
        _node("first", priority=7),
        _node("urgent", priority=1),
    ]
    executor = FakeExecutor()
    events = list(execute(nodes, Store(tmp_path), executor))
    assert executor.started == ["urgent", "first", "mid", "last", "late"]
    assert _names(events, "finished") == executor.started


def test_results_reach_the_cells_that_need_them(tmp_path):
    seen = {}

    def make(done) -> Cell:
        seen.update(done)
        return Cell("fake", {"name": "b"})

    nodes = [_node("a"), Node("b", "fake", ("a",), (0, 0, 0), 1, make)]
    list(execute(nodes, Store(tmp_path), FakeExecutor()))
    assert seen["a"].spec["name"] == "a"


def test_a_failure_takes_along_what_needs_it_and_nothing_else(tmp_path):
    nodes = [_node("a"), _node("b", "a"), _node("c", "b"), _node("x"), _node("y", "x")]
    executor = FakeExecutor(fails={"a": ValueError("no good")})
    events = list(execute(nodes, Store(tmp_path), executor))
    assert executor.started == ["a", "x", "y"]
    assert _names(events, "finished") == ["x", "y"]
    errors = {event.node.name: event.error for event in events if event.kind == "failed"}
    assert errors == {
        "a": "ValueError: no good",
        "b": "needs 'a', which failed",
        "c": "needs 'b', which failed",
    }


def test_finished_cells_are_found_and_not_run(tmp_path):
    store = Store(tmp_path)
    nodes = [_node("a"), _node("b", "a"), _node("c", "b")]
    first = list(execute(nodes, store, FakeExecutor()))
    for event in first:
        if event.result is not None and event.node.name != "b":
            store.save_result(event.result)
    executor = FakeExecutor()
    again = list(execute(nodes, store, executor))
    assert executor.started == ["b"]
    assert _names(again, "found") == ["a", "c"]
    executor = FakeExecutor()
    assert _names(list(execute([_node("a")], store, executor)), "found") == ["a"]
    assert executor.started == []


def test_all_that_is_done_is_found_before_anything_starts(tmp_path):
    """A chain that is done stands behind a cell that is not, and is more urgent."""
    store = Store(tmp_path)
    nodes = [_node("new", priority=-1), _node("a"), _node("b", "a"), _node("c", "b")]
    for event in execute(nodes[1:], store, FakeExecutor()):
        if event.result is not None:
            store.save_result(event.result)
    events = list(execute(nodes, store, FakeExecutor()))
    kinds = [(event.kind, event.node.name) for event in events]
    assert kinds[:3] == [("found", "a"), ("found", "b"), ("found", "c")]
    assert kinds[3:] == [("started", "new"), ("finished", "new")]


def test_two_nodes_of_one_cell_run_it_once(tmp_path):
    class Saving(FakeExecutor):
        def submit(self, cell: Cell) -> Future[CellResult]:
            future = super().submit(cell)
            store.save_result(future.result())
            return future

    store = Store(tmp_path)
    twin = replace(_node("a"), name="twin")
    executor = Saving()
    events = list(execute([_node("a"), twin], store, executor))
    assert executor.started == ["a"]
    assert _names(events, "found") == ["twin"]


def test_never_more_than_the_slots_and_all_of_them(tmp_path):
    executor = SlowExecutor(slots=3, cells=7)
    events = list(execute([_node(str(n)) for n in range(7)], Store(tmp_path), executor))
    assert [len(names) for names in executor.together] == [1, 2, 3, 1, 2, 3, 1]
    assert sorted(_names(events, "finished")) == [str(number) for number in range(7)]


def test_what_is_timed_runs_alone(tmp_path):
    nodes = [_node("x", priority=0), _node("y", priority=1), _node("z", priority=2)]
    nodes += [_node(f"timed {n}", priority=3 + n, alone=True) for n in range(2)]
    # The third stays alone with a free slot beside it, that the first timed one must not take:
    # it ends only because it is the last of those that are not timed.
    executor = SlowExecutor(slots=2, cells=3)
    events = list(execute(nodes, Store(tmp_path), executor))
    assert executor.together == [{"x"}, {"x", "y"}, {"z"}, {"timed 0"}, {"timed 1"}]
    assert len(_names(events, "finished")) == 5


def test_a_cell_that_loses_every_worker_fails_alone(tmp_path):
    executor = FakeExecutor(fails={"a": WorkerLost("its worker died")})
    events = list(execute([_node("a"), _node("b")], Store(tmp_path), executor))
    (failed,) = [event for event in events if event.kind == "failed"]
    assert (failed.node.name, failed.error) == ("a", "WorkerLost: its worker died")
    assert _names(events, "finished") == ["b"]


def test_a_training_of_several_ranks_takes_several_slots(tmp_path):
    def ranked(name: str, ranks: int, priority: int) -> Node:
        spec = {"name": name, "alone": False, "recipe": {"ranks": ranks}}
        return Node(name, "fake", (), (priority, 0, 0), 1, lambda _: Cell("fake", spec))

    nodes = [ranked("a", 2, 0), ranked("b", 1, 1), ranked("c", 2, 2), ranked("d", 1, 3)]

    class Counting(SlowExecutor):
        """Three slots: a and b fill them; c comes when both are through, d beside it."""

        def submit(self, cell: Cell) -> Future[CellResult]:
            future = super().submit(cell)
            if set(self.running) in ({"a", "b"}, {"c", "d"}):
                for name in list(self.running):
                    self.running.pop(name).set_result(CellResult(name, "fake", {}, ()))
            return future

    executor = Counting(slots=3, cells=4)
    list(execute(nodes, Store(tmp_path), executor))
    assert executor.together == [{"a"}, {"a", "b"}, {"c"}, {"c", "d"}]


def test_a_circle_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cycle"):
        list(execute([_node("a", "b"), _node("b", "a")], Store(tmp_path), FakeExecutor()))


# Real cells in this process.


def _run(plan: Plan, out: Path) -> tuple[Path, str]:
    said = StringIO()
    report = run_plan(
        plan,
        out,
        engine=Engine(workers=1),
        command="python -m comparisons run",
        console=Console(file=said, width=200),
    )
    return report, said.getvalue()


@pytest.fixture
def in_process(monkeypatch, inline_executor):
    """Runs that start no processes, so that a test can change what cells do."""

    class InProcess:
        @staticmethod
        @contextmanager
        def running(store, **_):
            yield inline_executor(store)

    monkeypatch.setattr(select, "LocalExecutor", InProcess)


def _broken(model: nn.Module):
    del model

    def explain(batch):
        return batch.inputs[:, 0] / 0.0 * 0.0

    return explain


def test_a_method_that_fails_keeps_the_others_and_is_tried_again(
    in_process, tmp_path, make_tiny_plan, monkeypatch
):
    entry = Method("broken", "Broken", "control", "nobody", {}, _broken)
    monkeypatch.setitem(METHODS, "broken", entry)
    plan = make_tiny_plan("broken", "centre")
    with pytest.raises(RunError) as caught:
        _run(plan, tmp_path)
    message = str(caught.value)
    # Its maps, and what needs them: two retrainings and the mask-only one.
    failed = [line for line in message.splitlines() if line.startswith("  ")]
    assert failed[0].startswith(
        "  maps of broken: ValueError: the saliency map of image 0 holds NaN"
    )
    assert sum("needs 'maps of broken', which failed" in line for line in failed) == 3
    assert message.startswith(f"{len(failed)} cells failed; the others are kept")
    records = [record for result in Store(tmp_path).results() for record in result.records]
    measured = {record.method for record in records if record.metric.endswith("accuracy")}
    assert measured == {"none", "centre"}
    assert "not measured" in (tmp_path / "report.html").read_text()
    # Mended, the same call does only what is missing.
    before = _times(tmp_path)
    monkeypatch.setitem(METHODS, "broken", replace(entry, prepare=METHODS["centre"].prepare))
    _run(plan, tmp_path)
    assert {name: _times(tmp_path)[name] for name in before} == before
    assert len(_times(tmp_path)) == len(before) + len(failed)


def test_a_network_that_cannot_be_trained_leaves_a_report_and_one_message(
    in_process, tmp_path, make_tiny_plan
):
    plan = make_tiny_plan("centre")
    plan = replace(plan, recipe=replace(plan.recipe, learning_rate=1e15, epochs=2))
    with pytest.raises(RunError, match=r"unmasked, seed 0: FloatingPointError: the loss is"):
        _run(plan, tmp_path)
    assert (tmp_path / "report.html").exists()


def test_another_plan_may_not_use_the_directory(in_process, tmp_path, make_tiny_plan):
    plan = make_tiny_plan("centre")
    _run(plan, tmp_path)
    before = _times(tmp_path)
    with pytest.raises(RunError, match="holds a run with another model: give another --out"):
        _run(replace(plan, model="resnet20"), tmp_path)
    assert _times(tmp_path) == before
    assert json.loads((tmp_path / "plan.json").read_text())["plan"]["model"] == "resnet9"


def test_what_a_plan_needs_is_said_first(in_process, tmp_path, make_tiny_plan, monkeypatch):
    # A throughput so low that hours come out: 4 trainings of 64 images, 32 tests of each, and
    # the base network is asked for all 96 images once more.
    slow = given("0.01,0.1,0.1,1e9")
    monkeypatch.setattr(compare, "measured", lambda *_, **__: slow)
    plan = make_tiny_plan("centre")
    _, said = _run(replace(plan, mask_only=(("roar", 0.5),)), tmp_path)
    announced = said.index("Plan: 4 trainings (256 images through the network), 224 passes for")
    hours = said.index("This needs hours")
    assert announced < hours < said.index("maps of centre")
    # One worker: 256 / 0.01 + 224 / 0.1 seconds.
    assert "about 7.7 h with 1 worker," in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_driver_of_a_cluster_needs_no_gpu(in_process, tmp_path, make_tiny_plan):
    said = StringIO()
    run_plan(
        make_tiny_plan("centre"),
        tmp_path,
        engine=Engine(workers=1, resources=Resources(device="cuda")),
        command="a command",
        console=Console(file=said, width=200),
    )
    assert "No cuda here for a trial: what the plan takes is not estimated" in said.getvalue()


# The real command.


def _times(out: Path) -> dict[str, int]:
    """When each cell was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("[!.]*.json")}


def _command(out: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "comparisons", "run", "--preset", "smoke"),
        *("--train-images", "128", "--test-images", "48", "--image-size", "16"),
        *("--precision", "float32", "--out", str(out), *options),
    ]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> tuple[Path, str]:
    """A smoke run through the command, with one worker process: its directory and its words."""
    out = tmp_path_factory.mktemp("smoke") / "run"
    done = subprocess.run(
        _command(out, "--workers", "1"),
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def _plan(out: Path) -> Plan:
    return Plan.from_json(json.loads((out / "plan.json").read_text())["plan"])


def test_the_command_leaves_a_report_and_every_cell(smoke):
    out, said = smoke
    assert f"Report: {out / 'report.html'}" in said
    page = (out / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    # The preset has no random blobs and nothing blurred, which the section of objections says.
    whole = re.sub(r'<style.*?</style>|<section id="pitfalls">.*?</section>', "", page, flags=re.S)
    assert "not measured" not in whole
    nodes = build_nodes(_plan(out), train_images=128, test_images=48)
    assert len(_times(out)) == len(nodes)
    # Each cell was said with its place, and accuracies with it.
    assert f"{len(nodes)}/{len(nodes)}  " in said
    assert re.search(r"smoe-linear, roar 50 %, seed 0  accuracy \d+\.\d %", said)
    assert "Plan: " in said
    for name in ("records.csv", "records.parquet", "plan.json"):
        assert (out / name).exists()
    assert list(out.rglob(".partial-*")) == []


def test_a_second_start_runs_nothing_new(smoke):
    out, _ = smoke
    before = _times(out)
    report, said = _run(_plan(out), out)
    assert report == out / "report.html"
    assert _times(out) == before
    assert "accuracy" not in said  # no line of a cell that ran


def test_one_cell_taken_away_is_done_again_to_the_last_digit(smoke):
    out, _ = smoke
    store = Store(out)
    (cell,) = [
        result
        for result in store.results()
        if result.kind == "retrain" and result.spec["method"] == "gradient"
        if result.spec["mode"] == "kar"
    ]
    before = _times(out)
    store.cell(cell.id).unlink()
    _run(_plan(out), out)  # in a worker process of this one
    after = _times(out)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [f"{cell.id}.json"]
    again = store.result(cell.id)
    measured, before = (
        [record for record in result.records if not record.timed] for result in (again, cell)
    )
    assert measured == before
    assert again.hashes == cell.hashes
    assert again.correct == cell.correct
    assert [entry["loss"] for entry in again.history] == [e["loss"] for e in cell.history]


def _children(pid: int) -> set[int]:
    """All descendants of a process."""
    psutil = pytest.importorskip("psutil")
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def _alive(pids: set[int]) -> set[int]:
    psutil = pytest.importorskip("psutil")
    alive = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                alive.add(pid)
        except psutil.NoSuchProcess:
            continue
    return alive


def _wait(ready, driver: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < deadline
        if driver is not None:
            assert driver.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_run_goes_on_where_it_was(smoke, tmp_path):
    out = tmp_path / "run"
    driver = subprocess.Popen(
        _command(out, "--workers", "2"),
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    workers: set[int] = set()
    try:
        _wait(lambda: (out / ".lock").exists() and len(_times(out)) >= 1, driver)
        # While it works there, nobody else may.
        with pytest.raises(RunError, match=f"another run is working in {out}: wait for it"):
            _run(_plan_of_smoke(smoke), out)
        _wait(lambda: len(_times(out)) >= 4, driver)
        workers = _children(driver.pid)
        assert len(workers) >= 2
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)
    _wait(lambda: not _alive(workers))  # they end with the one that started them
    before = _times(out)
    nodes = build_nodes(_plan(out), train_images=128, test_images=48)
    assert 4 <= len(before) < len(nodes)
    _run(_plan(out), out)
    after = _times(out)
    assert {name: after[name] for name in before} == before
    # Killed and continued with other workers, it is the undisturbed run to the last digit.
    undisturbed = {result.id: result for result in Store(smoke[0]).results()}
    continued = {result.id: result for result in Store(out).results()}
    assert continued.keys() == undisturbed.keys()
    for name, result in continued.items():
        assert result.hashes == undisturbed[name].hashes
        assert result.correct == undisturbed[name].correct


def _plan_of_smoke(smoke: tuple[Path, str]) -> Plan:
    return _plan(smoke[0])


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    driver = subprocess.Popen(
        _command(out, "--workers", "1"),
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        _wait(lambda: (out / "cells").exists() and len(_times(out)) >= 2, driver)
        workers = _children(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to the whole group
        said, _ = driver.communicate(timeout=PATIENCE_S)
    finally:
        driver.kill()
    assert driver.returncode == 130
    assert "Traceback" not in said
    assert f"What is finished is kept in {out}; the same command continues." in said
    _wait(lambda: not _alive(workers))
    assert list(Store(out).results())  # all of them can be read
