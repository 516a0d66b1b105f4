"""A run's lock on its folder, its images, its progress and its one error message."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import typer
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape

from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.engines.engine import Event, Executor, execute
from comparisons.engines.on_ray import RayMissing
from comparisons.graph.nodes import Node
from comparisons.runs.progress import RunProgress, StagingProgress
from evaluation.datasets.dataset import Dataset, open_staged
from evaluation.datasets.load import Request, files_hash, unchanged
from evaluation.storage.store import Store, remove_partial, write_atomically

__all__ = [
    "RunError",
    "failure_message",
    "one_message",
    "run_nodes",
    "staged",
    "working_in",
]


class RunError(RuntimeError):
    """A run cannot start or continue; the message says why and what to do."""


@contextmanager
def one_message(console: Console, out: Path) -> Iterator[None]:
    """Turn an error of a command into one message and an exit status.

    Args:
        console: gets the message.
        out: the run's directory, which keeps what is finished.
    """
    try:
        yield
    except (RunError, RayMissing, ValueError, OSError) as error:
        # Escaped, since a path may hold brackets, which rich reads as styles.
        console.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True, markup=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt:
        console.print(
            f"\nStopped. What is finished is kept in {out}; the same command continues.",
            soft_wrap=True,
            markup=False,
        )
        raise typer.Exit(130) from None


@contextmanager
def working_in(out: Path) -> Iterator[None]:
    """Lock a run's folder; SIGTERM ends the run like Ctrl-C.

    Partial files of an earlier run that was killed are removed.

    Raises:
        RunError: another run holds it.
    """
    with _alone(out), _terminated_as_interrupted():
        remove_partial(out)
        yield


def staged(cell: Cell, store: Store, console: Console) -> Dataset:
    """Return the images of a run, staged at its first start.

    Args:
        cell: the data cell.
        store: the run's folder.
        console: gets the progress.

    Raises:
        RunError: they are others now than those that were staged.
        evaluation.datasets.dataset.DatasetError: they cannot be used.
    """
    with StagingProgress("staging images", console) as progress:
        data = run_cell(cell, store, progress=progress)
    dataset = open_staged(store.data(data.id))
    source = cell.spec["source"]
    if files_hash(source) != data.hashes.get("files"):
        # Files that were only touched or copied are the same images.
        with StagingProgress("comparing images", console) as progress:
            same = unchanged(source, Request(**cell.spec["request"]), dataset, progress)
        if not same:
            raise RunError(
                f"the images of {source} changed after {store.root} was started with them: put "
                "them back to go on with it, or give another --out"
            )
    return dataset


def run_nodes(nodes: list[Node], store: Store, executor: Executor, console: Console) -> list[Event]:
    """Run the nodes that are not done yet, with progress.

    Returns:
        The events of the cells that failed; everything else is done.
    """
    failures = []
    progress = RunProgress(nodes, console)
    with progress.bar:
        for event in execute(nodes, store, executor):
            progress.show(event)
            if event.kind == "failed":
                failures.append(event)
    return failures


def failure_message(what: str, failures: list[str], report: Path) -> str:
    """Return the message about cells that failed: which, and how to try them again.

    Args:
        what: failed, in the plural.
        failures: the name and the error of each.
        report: the page that was written.
    """
    listed = "\n".join(f"  {failure}" for failure in failures)
    return (
        f"{len(failures)} {what} failed; the others are kept and reported in {report}. "
        f"Start the same command again to try these once more:\n{listed}"
    )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    lock, holder = FileLock(out / ".lock"), out / ".lock-holder.json"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another run is working in {out}: wait for it, stop it{_holder_in_words(holder)}, or "
            "give another --out"
        ) from None
    try:
        who = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
        text = json.dumps(who).encode()
        write_atomically(holder, lambda file: file.write(text))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder_in_words(holder: Path) -> str:
    """Return the holder of a folder in words, if it can be read."""
    try:
        who = json.loads(holder.read_text())
        return f" (process {who['process']} on {who['host']}, since {who['since']})"
    except (OSError, ValueError, KeyError):  # it is only just being written
        return ""


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the run like Ctrl-C: workers stopped, the lock released."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
