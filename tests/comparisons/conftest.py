"""What the tests of the comparison share: a tiny plan, and cells that run in this process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import Event, execute
from comparisons.engines.select import Engine
from comparisons.graph.nodes import build_nodes
from comparisons.plans.plan import Plan
from comparisons.runs.compare import run_plan
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker; results to the last digit depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread for the runs of a module."""
    with one_thread():
        yield


class InlineExecutor:
    """Runs a cell where it is submitted, and remembers the order."""

    def __init__(self, store: Store, slots: int = 1) -> None:
        self.slots = slots
        self.store = store
        self.submitted: list[Cell] = []

    def about(self) -> str:
        return "In this process"

    def submit(self, cell: Cell) -> Future[CellResult]:
        self.submitted.append(cell)
        future: Future[CellResult] = Future()
        try:
            future.set_result(run_cell(cell, self.store))
        except Exception as error:
            future.set_exception(error)
        return future


class TinyRun:
    """A finished run of the tiny plan."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self.executor = InlineExecutor(store)
        self.nodes = build_nodes(plan, train_images=64, test_images=32)
        self.events: list[Event] = list(execute(self.nodes, store, self.executor))
        self.results = {e.node.name: e.result for e in self.events if e.result is not None}
        self.cells = {cell.id: cell for cell in self.executor.submitted}


def tiny_plan(*methods: str) -> Plan:
    return Plan(
        "shapes",
        "resnet9",
        methods,
        fractions=(0.5,),
        mask_only=(("roar", 0.5),),
        train_images=64,
        test_images=32,
        image_size=16,
        recipe=Recipe(epochs=1, batch_size=16),
    )


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRun:
    """Random, the oracle and the gradient at one fraction, on 64 images of 16x16."""
    store = Store(tmp_path_factory.mktemp("tiny"))
    # The fixture of a session comes before that of a module; tests may have left more threads.
    with one_thread():
        return TinyRun(tiny_plan("random", "oracle", "gradient"), store)


@pytest.fixture(scope="session")
def make_tiny_plan():
    return tiny_plan


@pytest.fixture
def mortal(tmp_path) -> Path:
    """A folder with a network that dies, waits or fails where a file in it says so."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("mortal.py"), folder)
    (folder / "driver").write_text(str(os.getpid()))
    return folder


@pytest.fixture
def run_on():
    """Runs a plan on an engine, and gives what it said."""

    def run(plan: Plan, out: Path, engine: Engine) -> str:
        said = StringIO()
        console = Console(file=said, width=300)
        run_plan(plan, out, engine=engine, command="a command", console=console)
        return said.getvalue()

    return run


@pytest.fixture(scope="session")
def inline_executor():
    return InlineExecutor
