"""A run whose cells an engine runs, from the images to the page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console

import reports
from comparisons.engines.engine import Event, Executor
from comparisons.engines.select import Engine
from comparisons.graph.nodes import Node
from comparisons.graph.specs import data_cell
from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.archive import take_up
from comparisons.runs.plan_on_disk import kind_of
from comparisons.runs.session import RunError, failure_message, run_nodes, staged, working_in
from comparisons.runs.stored import fitting_plan, notes_said, set_aside_unfit
from evaluation.datasets.dataset import Dataset
from evaluation.networks.build import check_network
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store

__all__ = ["EngineRun"]

P = TypeVar("P", Plan, LayersPlan)


@dataclass
class EngineRun(ABC, Generic[P]):
    """A run whose cells are a graph of nodes.

    Args:
        plan: the options.
        out: folder of the run.
        engine: runs the cells.
        command: the command line, for the record.
        console: gets the messages.
        scratch: folder on each machine's own disk for what trainings read; None for `out` itself.
        source: an archive whose cells are taken up; None for none.
    """

    plan: P
    out: Path
    engine: Engine
    command: str
    console: Console
    scratch: Path | None = None
    source: Path | None = None

    @cached_property
    def store(self) -> Store:
        """The run's folder."""
        return Store(self.out, self.scratch)

    def check(self) -> None:
        """Refuse, before any image is read, a plan that cannot be run."""
        check_network(self.plan.model)

    @abstractmethod
    def nodes(self, dataset: Dataset) -> list[Node]:
        """Return the graph, once the network is known to run on the images, and keep the plan."""

    @abstractmethod
    def announce(self, nodes: list[Node], dataset: Dataset, executor: Executor) -> None:
        """Print what the run takes."""

    def finish(self) -> None:
        """Leave what a complete run leaves beside its page."""

    def run(self) -> Path:
        """Run the cells that are not done yet, and write the report.

        Returns:
            The report's path.

        Raises:
            RunError: another run is working in `out`, `out` belongs to a different plan, or some
                cells failed; what is finished stays.
            evaluation.datasets.dataset.DatasetError: the images cannot be used.
            ValueError: the network cannot be used.
        """
        store = self.store  # makes the folder
        with working_in(self.out), notes_said(store, self.console):
            fitting_plan(store, kind_of(self.plan), self.plan)
            set_aside_unfit(store)
            if self.source is not None:
                take_up(self.source, self.out, self.plan)
            self.check()
            self.console.print(f"Images: {self.plan.data}", soft_wrap=True, markup=False)
            dataset = staged(data_cell(self.plan), store, self.console)
            nodes = self.nodes(dataset)
            with self.engine.running(store) as executor:
                self.console.print(executor.about(), soft_wrap=True, markup=False)
                self.announce(nodes, dataset, executor)
                failures, report = self._run_and_report(nodes, executor)
            if failures:
                failed = [f"{event.node.name}: {event.error}" for event in failures]
                raise RunError(failure_message("cells", failed, report))
            self.finish()
        return report

    def _run_and_report(self, nodes: list[Node], executor: Executor) -> tuple[list[Event], Path]:
        """Run the nodes and write the page; again, if the page finds a file that does not fit."""
        while True:
            failures = run_nodes(nodes, self.store, executor, self.console)
            try:
                return failures, reports.build(self.out)
            except Unfit as found:
                if not self.store.set_aside(found):
                    raise
                staged(data_cell(self.plan), self.store, self.console)
