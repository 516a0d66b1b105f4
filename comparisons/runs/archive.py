"""Archives of runs: one is made of a run's folder, and its cells are taken up in another folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from comparisons.cells.maps import whole_of
from comparisons.graph.layers import Layers, build_layer_nodes
from comparisons.graph.nodes import Node, build_nodes
from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.session import RunError
from evaluation.datasets.dataset import SPLITS, Dataset, Split
from evaluation.storage.archive import (
    CELLS,
    RunArchive,
    RunFolder,
    new_archive,
    open_run,
    page_members,
    write_members,
)
from evaluation.storage.records import CellResult
from evaluation.storage.store import Store, write_atomically
from reports.pages.build import render, write_records
from reports.records.run import read_run

__all__ = ["Archived", "archive_run", "archived_plan", "take_up"]


@dataclass(frozen=True)
class Archived:
    """An archive that was written.

    Args:
        place: its folder.
        cells: how many finished cells it holds.
        left: how many cells of the plan are left to run; None where that cannot be told.
        sizes: bytes of each file.
        models_bytes: of networks and predictions that cells left to run read.
        maps_bytes: of levels that they read; None where these were left out.
        old_page: whether the page that was there was kept, since what it was made of is gone.
    """

    place: Path
    cells: int
    left: int | None
    sizes: Mapping[str, int]
    models_bytes: int
    maps_bytes: int | None
    old_page: bool


def archive_run(run: Path, to: Path, *, maps: bool = True) -> Archived:
    """Make the archive of a run: whole, or not at all.

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
    plan = _plan_of(run)
    if plan is None:
        raise RunError(f"{run} has no plan.json: nothing says which run it is")
    _refuse_another(plan, run, to)
    results = files.results()
    remaining = _Remaining.of(plan, results, files)
    members = page_members(files, results)
    models = {
        f"models/{path.name}": path
        for cell in sorted(remaining.networks)
        for path in (files.store.model(cell), files.store.predictions(cell))
        if path.exists()
    }
    levels = dict(_levels(files.store, remaining.maps)) if maps else {}
    old_page = _page_outlives_its_parts(files, results)
    with new_archive(to) as partial:
        shutil.copyfile(run / "plan.json", partial / "plan.json")
        write_members(partial / CELLS, {**members, **models, **levels})
        content = read_run(partial)
        write_records(content, partial)
        if old_page:
            shutil.copyfile(run / "report.html", partial / "report.html")
        else:
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
    """Put the cells of an archive into a run's folder, which then goes on as if it were its own.

    Args:
        source: the archive's folder.
        out: the run's folder; what it holds stays.
        plan: the run's own.

    Raises:
        RunError: `source` holds no archive, or one of another plan.
        evaluation.storage.archive.ArchiveError: it is damaged.
    """
    before = archived_plan(source, "run" if isinstance(plan, Plan) else "layers")
    read = type(plan).from_json(before["plan"])
    changed = read.conflicts(plan)  # type: ignore[arg-type]
    if changed:
        raise RunError(
            f"{source} holds a run with another {', '.join(changed)}: give --from alone, which "
            "takes its plan"
        )
    archive = RunArchive(source)
    archive.unpack(out)
    if not (out / "plan.json").exists():
        content = (source / "plan.json").read_bytes()
        write_atomically(out / "plan.json", lambda file: file.write(content))


def archived_plan(source: Path, kind: str) -> dict[str, Any]:
    """What ``plan.json`` of an archive says.

    Args:
        source: the archive's folder.
        kind: of run that it has to be of.

    Raises:
        RunError: `source` holds no archive, or one of a run of another kind.
    """
    found = _plan_of(source)
    if found is None or not (source / CELLS).exists():
        raise RunError(
            f"--from {source}: expected an archive, with plan.json and {CELLS}; a run's own folder "
            "is continued with --out"
        )
    if found.get("kind", "run") != kind:
        raise RunError(
            f"--from {source} holds what `python -m comparisons {found.get('kind', 'run')}` made"
        )
    return found


def _plan_of(folder: Path) -> dict[str, Any] | None:
    path = folder / "plan.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def _refuse_another(plan: Mapping[str, Any], run: Path, to: Path) -> None:
    """Refuse to replace the archive of another run."""
    there = _plan_of(to) if to.is_dir() and (to / CELLS).exists() else None
    if there is None:
        return
    kind = plan.get("kind", "run")
    if kind != there.get("kind", "run"):
        changed = ["kind"]
    elif kind == "run":
        changed = Plan.from_json(plan["plan"]).conflicts(Plan.from_json(there["plan"]))
    elif kind == "layers":
        changed = LayersPlan.from_json(plan["plan"]).conflicts(LayersPlan.from_json(there["plan"]))
    else:  # costs that were measured with other options stand beside each other
        changed = []
    if changed:
        raise RunError(
            f"{to} holds the archive of another run than {run}, with another "
            f"{', '.join(changed)}: give another --to, or delete that one"
        )


@dataclass(frozen=True)
class _Remaining:
    """What a run has still to do, and what of its artefacts that reads.

    Args:
        count: cells of the plan that are not finished; None where it cannot be told.
        networks: ids of finished cells whose networks or predictions are read, directly or to make
            again what is.
        maps: ids of cells whose levels are read, or made in part.
    """

    count: int | None
    networks: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, plan: Mapping[str, Any], results: Sequence[CellResult], files: RunFolder
    ) -> _Remaining:
        """Look the cells of a plan up among those that are finished."""
        kind = plan.get("kind", "run")
        if kind == "profile":  # its cells read nothing of each other
            return cls(None)
        finished = {result.id: result for result in results}
        try:
            return cls._among(_nodes(kind, plan, results, files), finished)
        except (OSError, ValueError, TypeError, KeyError):
            # A file of weights or a method is not here, or the plan is of other code: all is kept.
            every = frozenset(finished)
            return cls(None, every, every)

    @classmethod
    def _among(cls, nodes: list[Node], finished: Mapping[str, CellResult]) -> _Remaining:
        by_name = {node.name: node for node in nodes}
        done: dict[str, CellResult] = {}
        left: list[Node] = []
        maps: set[str] = set()
        graph = {node.name: node.needs for node in nodes}
        for name in TopologicalSorter(graph).static_order():
            node = by_name[name]
            cell = node.make(done) if all(need in done for need in node.needs) else None
            if cell is not None and cell.id in finished:
                done[name] = finished[cell.id]
                continue
            left.append(node)
            maps |= {done[need].id for need in node.needs if need in done}
            if cell is not None and cell.kind in ("maps", "part"):
                maps.add(whole_of(cell).id)
        networks: set[str] = set()
        seen: set[str] = set()
        queue = [need for node in left for need in node.needs]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += by_name[name].needs
                networks |= {done[name].id} if name in done else set()
        return cls(len(left), frozenset(networks), frozenset(maps))


def _nodes(
    kind: str, plan: Mapping[str, Any], results: Sequence[CellResult], files: RunFolder
) -> list[Node]:
    options = plan["plan"]
    facts: Mapping[str, Any] = {}
    for result in results:
        facts = (result.kind == "data" and files.image_facts(result.id)) or facts
    train, test = (int(facts.get(f, options.get(f"{f}_images") or 0)) for f in SPLITS)
    if kind == "run":
        return build_nodes(Plan.from_json(options), train_images=train, test_images=test)
    names = tuple(plan["layers"])
    # Times and sizes are of no interest here.
    layers = Layers(names, (0,) * len(names), (0.0,) * len(names), 0.0)
    dataset = Dataset(str(options["data"]), (), _counted(train), _counted(test))
    return build_layer_nodes(LayersPlan.from_json(options), layers, dataset)


def _counted(images: int) -> Split:
    return Split(np.empty((0, 0, 0, 3), np.uint8), np.zeros(images, np.int64))


def _levels(store: Store, cells: Iterable[str]) -> Iterable[tuple[str, Path]]:
    """Levels of maps cells and what lies beside them, but not what is unpacked of them."""
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


def _page_outlives_its_parts(files: RunFolder, results: Sequence[CellResult]) -> bool:
    """Whether a page is there that shows images or maps which are gone."""
    if not (files.root / "report.html").exists():
        return False
    facts = [files.image_facts(result.id) for result in results if result.kind == "data"]
    galleries = [files.store.gallery(result.id) for result in results if result.kind == "maps"]
    without_maps = bool(galleries) and not any(path.exists() for path in galleries)
    return without_maps or not all(facts)


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)
