"""Archive a run, and continue a run from an archive."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.plan_on_disk import PLAN, PlanOnDisk, kind_of
from comparisons.runs.remaining import Remaining
from comparisons.runs.session import RunError
from evaluation.datasets.dataset import SPLITS
from evaluation.storage.archive import (
    CELLS,
    RunArchive,
    new_archive,
    open_run,
    page_members,
    write_members,
)
from evaluation.storage.records import CellResult
from evaluation.storage.run_files import RunFolder
from evaluation.storage.sealed import Unfit
from evaluation.storage.store import Store
from evaluation.storage.writing import write_atomically
from reports.pages.build import render, write_records
from reports.records.reading import read_run

__all__ = ["Archived", "archive_run", "archived_plan", "take_up"]


@dataclass(frozen=True)
class Archived:
    """An archive that was written.

    Args:
        place: its folder.
        cells: number of finished cells.
        left: number of cells of the plan that are left to run; None if it is unknown.
        sizes: bytes of each file.
        models_bytes: of networks and predictions that cells left to run read.
        maps_bytes: of levels that they read; None where these were left out.
        old_page: True if the existing page was kept, since the facts about its images are gone.
    """

    place: Path
    cells: int
    left: int | None
    sizes: Mapping[str, int]
    models_bytes: int
    maps_bytes: int | None
    old_page: bool


def archive_run(run: Path, to: Path, *, maps: bool = True) -> Archived:
    """Write the archive of a run, whole or not at all.

    Args:
        run: the run's folder; finished or not.
        to: the archive's folder; an older archive of the same run there is replaced.
        maps: keep the levels that cells left to run read; if not, they are made again.

    Returns:
        What was written.

    Raises:
        RunError: `run` cannot be archived, or `to` holds the archive of another run.
        evaluation.storage.archive.ArchiveError: `to` holds something else.
        FileNotFoundError: `run` is no run.
    """
    files = open_run(run)
    if not isinstance(files, RunFolder):
        raise RunError(f"{run} is an archive already: copy the folder")
    plan = PlanOnDisk.read(run)
    if plan is None:
        raise RunError(f"{run} has no plan.json: nothing says which run it is")
    _refuse_another(plan, to)
    results = files.results()
    remaining = Remaining.of(plan, results, files)
    members = page_members(files, results)
    models = {
        f"models/{path.name}": path
        for cell in sorted(remaining.networks)
        for path in (files.store.model(cell), files.store.predictions(cell))
        if path.exists()
    }
    levels = dict(_levels(files.store, remaining.maps)) if maps else {}
    old_page = _page_outlives_its_facts(files, results)
    with new_archive(to) as partial:
        shutil.copyfile(run / PLAN, partial / PLAN)
        write_members(partial / CELLS, {**members, **models, **levels})
        if (run / "report.html").exists():
            # The new page takes its pictures where their maps are gone.
            shutil.copyfile(run / "report.html", partial / "report.html")
        content = read_run(partial)
        write_records(content, partial)
        if not old_page:
            html = render(content).encode()
            write_atomically(partial / "report.html", lambda file: file.write(html))
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    return Archived(
        place=to,
        cells=len(results),
        left=remaining.count,
        sizes=sizes,
        models_bytes=_bytes(models.values()),
        maps_bytes=_bytes(levels.values()) if maps else None,
        old_page=old_page,
    )


def take_up(source: Path, out: Path, plan: Plan | LayersPlan) -> None:
    """Copy the cells of an archive into a run's folder, which then continues them.

    Args:
        source: the archive's folder.
        out: the run's folder; what it holds stays.
        plan: the run's own.

    Raises:
        RunError: `source` holds no archive, or one of another plan.
        evaluation.storage.archive.ArchiveError: it is damaged.
    """
    changed = archived_plan(source, kind_of(plan)).conflicts(plan)
    if changed:
        raise RunError(
            f"{source} holds a run with another {', '.join(changed)}: give --from alone, which "
            "takes its plan"
        )
    archive = RunArchive(source)
    archive.unpack(out)
    if not (out / PLAN).exists():
        content = (source / PLAN).read_bytes()
        write_atomically(out / PLAN, lambda file: file.write(content))


def archived_plan(source: Path, kind: str) -> PlanOnDisk:
    """Read the plan of an archive.

    Args:
        source: the archive's folder.
        kind: of run that it has to be of.

    Raises:
        RunError: `source` holds no archive, or one of a run of another kind.
    """
    try:
        found = PlanOnDisk.read(source)
    except Unfit as unfit:
        raise RunError(f"{unfit.fault}; copy the archive again") from unfit
    if found is None or not (source / CELLS).exists():
        raise RunError(
            f"--from {source}: expected an archive, with plan.json and {CELLS}; a run's own folder "
            "is continued with --out"
        )
    if found.kind != kind:
        raise RunError(f"--from {source} holds what `python -m comparisons {found.kind}` made")
    return found


def _refuse_another(plan: PlanOnDisk, to: Path) -> None:
    """Refuse to replace the archive of another run."""
    there = PlanOnDisk.read(to) if to.is_dir() and (to / CELLS).exists() else None
    if there is None:
        return
    if plan.kind != there.kind:
        changed = ["kind"]
    elif plan.kind == "profile":  # costs that were measured with other options are joined
        changed = []
    else:
        changed = plan.conflicts(there.plan)
    if changed:
        raise RunError(
            f"{to} holds the archive of another run than {plan.folder}, with another "
            f"{', '.join(changed)}: give another --to, or delete that one"
        )


def _levels(store: Store, cells: Iterable[str]) -> Iterable[tuple[str, Path]]:
    """Yield the files of maps cells, without the unpacked copies."""
    for cell in sorted(cells):
        folder = store.maps(cell)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            unpacked = name.parts[0] in {f"{split}.{end}" for split in SPLITS for end in _UNPACKED}
            hidden = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not unpacked and not hidden:
                yield f"maps/{cell}/{name.as_posix()}", path


# Endings of a split's memory map, which a training makes of the levels, and of its hash.
_UNPACKED = ("npy", "hash")


def _page_outlives_its_facts(files: RunFolder, results: Sequence[CellResult]) -> bool:
    """Return True if there is a page, and what it says of the images can no longer be read."""
    if not (files.root / "report.html").exists():
        return False
    return not all(files.image_facts(result.id) for result in results if result.kind == "data")


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
