"""Progress of a run: a line for each cell, above a bar with the time left."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from comparisons.engines.engine import Event
from comparisons.graph.nodes import Node
from reports.formatting import duration

__all__ = ["RunProgress", "StagingProgress"]

# A log, which has no bar, gets a line so often.
_LINE_SECONDS = 60.0


class RunProgress:
    """Progress of cells: a line for each, above a bar with the time left."""

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
        self._count, self._total = 0, len(nodes)
        self._found, self._is_continued = 0, False

    def show(self, event: Event) -> None:
        """Print an event of a node, and update the bar."""
        node = event.node
        if event.kind == "started":
            if self._found and not self._running:
                said = f"{self._found} of {self._total} cells were done before"
                if not self._is_continued:
                    said = f"{self._count}/{self._total}  images"
                self.bar.console.print(said)
                self._found, self._is_continued = 0, False
            self._running.append(node.name)
        else:
            if node.name in self._running:
                self._running.remove(node.name)
            self._count += 1
            self._passes_left -= node.passes
            self._passes_run += node.passes if event.kind == "finished" else 0
            if event.kind == "found":
                self._found += 1
                # A fresh run finds the images, which it has staged before its cells start.
                self._is_continued |= node.stage != "data"
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
        return f"about {duration(self._passes_left / rate)} left"


class StagingProgress:
    """Progress of staging: a bar on a terminal, a line a minute in a log.

    Args:
        title: of the bar.
        console: gets the lines.
    """

    def __init__(self, title: str, console: Console) -> None:
        self._title, self._console = title, console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=None, left="")
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def __enter__(self) -> StagingProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Update the bar with the number of staged images."""
        now = time.monotonic()
        if self._first is None:
            # Images staged by an earlier start do not count for the rate.
            self._first, self._started = done, now
        left = ""
        if done > self._first:
            seconds = (now - self._started) / (done - self._first) * (total - done)
            left = f"about {duration(seconds)} left"
        title = self._title if done < total else "making sure of what is on disk"
        self._bar.update(self._task, completed=done, total=total, description=title, left=left)
        if not self._console.is_terminal and now - self._said >= _LINE_SECONDS:
            self._said = now
            line = f"{self._title}: {done} of {total}  {left}"
            self._console.print(line.rstrip(), soft_wrap=True, markup=False)


def _outcome(event: Event) -> str:
    if event.result is None:
        return f"  FAILED: {event.error}"
    shown = [
        f"  {record.metric.replace('_', ' ')} {100 * record.value:.1f} %"
        for record in event.result.records
        if record.unit == "1" and record.derived_from is None and not record.timed
        # Measures at several layers are on the page; an accuracy inside a network is one number.
        if record.layer is None or record.metric == "accuracy"
    ]
    return "".join(shown) + f"  ({duration(event.result.seconds)})"
