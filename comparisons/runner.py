"""One run of a plan: what is said before, during and after it, and what keeps it whole."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

import reports
from comparisons.cells import run_cell
from comparisons.engine import Event, LocalExecutor, execute
from comparisons.graph import Estimate, Node, build_nodes, data_cell, estimate
from comparisons.methods import METHODS
from comparisons.plan import Plan
from evaluation.images import Dataset, open_staged
from evaluation.networks import build_network
from evaluation.store import Store, write_atomically

__all__ = ["RunError", "run_plan"]


class RunError(RuntimeError):
    """The run cannot start or go on; the message says why and what to do."""


def run_plan(
    plan: Plan,
    out: Path,
    *,
    workers: int | None,
    threads: int,
    device: str,
    command: str,
    console: Console,
) -> Path:
    """Run what is not done yet of a plan, and write the report.

    Args:
        plan: the options.
        out: directory of the run.
        workers: processes; None for one a processor.
        threads: threads of each.
        device: where networks run.
        command: what was typed, for the record.
        console: where to say what happens.

    Returns:
        The report's path.

    Raises:
        RunError: another run is working in `out`, `out` belongs to a different plan, a
            worker died, or some cells failed; what is finished stays.
        evaluation.images.DatasetError: the images cannot be used.
        ValueError: the network cannot be used.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise RunError(f"{name}={value}: expected at least 1")
    workers = workers or _processors()
    store = Store(out)
    with _alone(out), _terminated_as_interrupted():
        _refuse_another_plan(plan, out)
        console.print(f"Images: {plan.data}", soft_wrap=True, markup=False)
        data = run_cell(data_cell(plan), store)
        dataset = open_staged(store.data(data.id))
        for skipped in dataset.skipped:
            console.print(f"  skipped {skipped.path}: {skipped.why}", soft_wrap=True, markup=False)
        build_network(plan.model, len(dataset.classes), 0, size=dataset.size)
        # Only now: a mistyped option must not keep the directory from the corrected one.
        _keep_plan(plan, out, command)
        nodes = build_nodes(
            plan,
            train_images=len(dataset.train.labels),
            test_images=len(dataset.test.labels),
        )
        _announce(_estimate(plan, nodes, dataset, workers), workers, console)
        failures = _run(nodes, store, workers, threads, device, console)
        report = reports.build(out)
    if failures:
        listed = "\n".join(f"  {event.node.name}: {event.error}" for event in failures)
        raise RunError(
            f"{len(failures)} cells failed; the others are kept and reported in {report}. "
            f"Start the same command again to try these once more:\n{listed}"
        )
    return report


def _run(
    nodes: list[Node], store: Store, workers: int, threads: int, device: str, console: Console
) -> list[Event]:
    failures = []
    progress = _Progress(nodes, console)
    try:
        with (
            progress.bar,
            LocalExecutor.running(
                store, workers=workers, threads=threads, device=device
            ) as executor,
        ):
            for event in execute(nodes, store, executor):
                progress.show(event)
                if event.kind == "failed":
                    failures.append(event)
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process died (killed, or out of memory?); what is finished is kept: start "
            "the same command again to go on, with fewer --workers if memory was short"
        ) from error
    return failures


class _Progress:
    """Says what happens, a line a cell, over a bar with the time left."""

    def __init__(self, nodes: list[Node], console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,  # a log gets the lines alone
        )
        self._task = self.bar.add_task("starting", total=len(nodes), left="")
        self._passes_left = sum(node.passes for node in nodes)
        self._passes_run = 0
        self._started = time.monotonic()
        self._running: list[str] = []
        self._count, self._total, self._found = 0, len(nodes), 0

    def show(self, event: Event) -> None:
        node = event.node
        if event.kind == "started":
            if self._found and not self._running:
                self.bar.console.print(f"{self._found} of {self._total} cells were done before")
                self._found = 0
            self._running.append(node.name)
        else:
            if node.name in self._running:
                self._running.remove(node.name)
            self._count += 1
            self._passes_left -= node.passes
            self._passes_run += node.passes if event.kind == "finished" else 0
            if event.kind == "found":
                self._found += 1
            else:
                line = f"{self._count}/{self._total}  {node.name}{_outcome(event)}  {self._left()}"
                self.bar.console.print(line.rstrip(), soft_wrap=True, markup=False)
        self.bar.update(
            self._task,
            completed=self._count,
            description=f"running: {'; '.join(self._running) or 'nothing'}",
            left=self._left(),
        )

    def _left(self) -> str:
        if not self._passes_run:
            return ""
        rate = self._passes_run / (time.monotonic() - self._started)
        return f"about {_duration(self._passes_left / rate)} left"


def _outcome(event: Event) -> str:
    if event.result is None:
        return f"  FAILED: {event.error}"
    shown = [
        f"  {record.metric.replace('_', ' ')} {100 * record.value:.1f} %"
        for record in event.result.records
        if record.unit == "1" and record.derived_from is None
    ]
    return "".join(shown) + f"  ({_duration(event.result.seconds)})"


def _estimate(plan: Plan, nodes: list[Node], dataset: Dataset, workers: int) -> Estimate:
    return estimate(
        plan,
        nodes,
        classes=len(dataset.classes),
        size=dataset.size,
        images=len(dataset.train.labels) + len(dataset.test.labels),
        workers=workers,
    )


def _announce(cost: Estimate, workers: int, console: Console) -> None:
    console.print(
        f"Plan: {cost.trainings} trainings ({cost.training_images:,} images through the network), "
        f"{cost.attribution_passes:,} attribution passes, {cost.disk_bytes / 2**20:,.0f} MiB of "
        f"disk; about {_duration(cost.seconds)} with {workers} workers, less what is done already",
        soft_wrap=True,
    )
    if cost.seconds > 3600:
        console.print(
            "[bold]This needs hours.[/] It can be stopped with Ctrl-C at any time; the same "
            "command continues. Fewer --methods, --fractions, --seeds or --epochs take less.",
            soft_wrap=True,
        )


def _refuse_another_plan(plan: Plan, out: Path) -> None:
    path = out / "plan.json"
    if not path.exists():
        return
    before = Plan.from_json(json.loads(path.read_text())["plan"])
    changed = before.conflicts(plan)
    if changed:
        raise RunError(
            f"{out} holds a run with another {', '.join(changed)}: give another --out, or "
            "the same options to continue it"
        )


def _keep_plan(plan: Plan, out: Path, command: str) -> None:
    methods = {
        name: {
            "title": METHODS[name].title,
            "citation": METHODS[name].citation,
            "parameters": dict(METHODS[name].parameters),
            "group": METHODS[name].group,
        }
        for name in plan.methods
    }
    content: dict[str, Any] = {"plan": asdict(plan), "command": command, "methods": methods}
    text = json.dumps(content, indent=1).encode()
    write_atomically(out / "plan.json", lambda file: file.write(text))


def _processors() -> int:
    """Processors this process may use; not every system can say which."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another run is working in {out}: wait for it, stop it, or give another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a polite kill end the run as Ctrl-C does: workers stopped, the lock released."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> _duration(90), _duration(7200)
    ('1.5 min', '2.0 h')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
