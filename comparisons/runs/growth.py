"""Measure the time and memory of a run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from comparisons.estimates.files import write_plan_file
from comparisons.plans.growth import Case
from comparisons.runs.session import RunError
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store

__all__ = ["Measured", "measure_run", "times"]

_ROOT = Path(__file__).parents[2]
_BETWEEN_SAMPLES_S = 0.1


@dataclass(frozen=True)
class Times:
    """Times of a run, from the records of its cells.

    Args:
        cells: number of cells that workers ran.
        start_s: from the start of the process until the first of them began: imports, a trial,
            images, workers.
        run_s: from then until the last one was recorded.
        cells_s: the sum of their own seconds.
        between_s: of one worker, what lay between the end of a cell and the start of the next, a
            cell; of several workers, not a number.
    """

    cells: int
    start_s: float
    run_s: float
    cells_s: float
    between_s: float


@dataclass(frozen=True)
class Measured:
    """Time, memory and disk of a run.

    Args:
        total_s: wall time of the command.
        times: from the records of its cells.
        largest_mib: peak of the largest process's own memory: files that it maps left out.
        all_mib: peak of all its processes' own memory together.
        disk_mib: of its directory, afterwards.
    """

    total_s: float
    times: Times
    largest_mib: float
    all_mib: float
    disk_mib: float

    def row(self) -> dict[str, float]:
        """Return the numbers as a row of a table."""
        numbers = {name: value for name, value in asdict(self).items() if name != "times"}
        return numbers | asdict(self.times)


def measure_run(case: Case, folder: Path) -> Measured:
    """Run a case with the command line, and sample the memory of its processes.

    Args:
        case: the run.
        folder: an empty one, for its plan and its directory.

    Raises:
        RunError: the run failed; with its last words.
    """
    file, out = folder / "plan.json", folder / "run"
    write_plan_file(file, {"plan": case.plan.to_json()})
    command = [
        *(sys.executable, "-m", "comparisons", "run", "--plan", str(file), "--out", str(out)),
        *("--workers", str(case.workers)),
    ]
    if case.engine != "local":
        command += ["--engine", case.engine]
    log = folder / "log.txt"
    with log.open("wb") as words:
        wall, began = time.time(), time.perf_counter()
        process = subprocess.Popen(command, cwd=_ROOT, stdout=words, stderr=subprocess.STDOUT)
        try:
            largest, together = _watch(process)
        finally:
            process.kill()
            process.wait()
        total = time.perf_counter() - began
    if process.returncode != 0:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
        raise RunError(f"the run of {case.series} {case.value} failed:\n{last}")
    store = Store(out)
    ended = [(store.cell(found.id).stat().st_mtime, found) for found in store.results()]
    return Measured(
        total,
        times(ended, wall, case.workers),
        largest / 2**20,
        together / 2**20,
        sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 2**20,
    )


def times(ended: Sequence[tuple[float, CellResult]], began: float, workers: int) -> Times:
    """Compute the times of a run from its cells.

    The images are read before there are workers and count as part of the start.

    Args:
        ended: when each result was recorded, and the result.
        began: when the process was started.
        workers: number of processes.
    """
    by_workers = sorted(
        ((end, result.seconds) for end, result in ended if result.kind != "data"),
    )
    first = min(end - seconds for end, seconds in by_workers)
    last = by_workers[-1][0]
    cells_s = sum(seconds for _, seconds in by_workers)
    between = float("nan")
    if workers == 1 and len(by_workers) > 1:
        between = (last - first - cells_s) / (len(by_workers) - 1)
    return Times(len(by_workers), first - began, last - first, cells_s, between)


def _watch(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a process; return the peak memory of its largest process, and of all together."""
    watched = psutil.Process(process.pid)
    largest = together = 0
    while process.poll() is None:
        held = []
        try:
            for each in (watched, *watched.children(recursive=True)):
                info = each.memory_info()
                # Pages of mapped files do not count: the system can drop them.
                held.append(info.rss - getattr(info, "shared", 0))
        except psutil.NoSuchProcess:
            pass  # one of them ended meanwhile; the others are counted
        largest = max(largest, *held, 0)
        together = max(together, sum(held))
        time.sleep(_BETWEEN_SAMPLES_S)
    return largest, together
