"""What is said while images are staged, in a log and on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from comparisons.engines.engine import Event
from comparisons.graph.nodes import build_nodes
from comparisons.plans.plan import Plan
from comparisons.runs import progress
from comparisons.runs.progress import RunProgress, StagingProgress
from evaluation.storage.records import CellResult

pytestmark = pytest.mark.training


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute_with_the_time_left(clock):
    console = Console(file=io.StringIO(), width=120)
    with StagingProgress("staging images", console) as told:
        told(400, 1000)  # an earlier start's: it says nothing about this one's speed
        for done in (450, 500, 550, 600):
            clock[0] += 25
            told(done, 1000)
    # 150 images in 75 seconds at that line, and 450 more take three times as long.
    assert console.file.getvalue() == "staging images: 550 of 1000  about 4 min left\n"


def test_a_terminal_gets_a_bar_that_goes_away(clock):
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with StagingProgress("staging images", console) as told:
        told(0, 1000)
        clock[0] += 30
        told(250, 1000)
        told._bar.refresh()
        assert "250/1000" in console.file.getvalue()
        assert "about 90 s left" in console.file.getvalue()
    assert "[2K" in console.file.getvalue().rpartition("250/1000")[2]


@pytest.mark.parametrize(("found", "said"), [(1, False), (2, True)])
def test_a_fresh_run_has_nothing_done_before(found, said):
    """Images are staged before the first cell starts, and found then; a base network is not."""
    plan = Plan("shapes", "resnet9", ("random",), fractions=(0.5,), mask_only=())
    nodes = build_nodes(plan, train_images=8, test_images=8)
    console = Console(file=io.StringIO(), width=120)
    told = RunProgress(nodes, console)
    results = [CellResult(node.name, node.stage, {}, (), seconds=1.0) for node in nodes]
    for node, result in zip(nodes[:found], results, strict=False):
        told.show(Event(node, "found", result))
    told.show(Event(nodes[found], "started"))
    told.show(Event(nodes[found], "finished", results[found]))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == ("2 of 5 cells were done before" if said else "1/5  images")
    assert lines[1].startswith("3/5  maps of random" if said else "2/5  unmasked")
    assert len(lines) == 2
