"""The stored files of a run, checked when it starts; what does not fit is set aside and said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from comparisons.plans.layers import LayersPlan
from comparisons.plans.plan import Plan
from comparisons.runs.plan_on_disk import PlanOnDisk
from evaluation.datasets.staged import check_staged, staged_hash
from evaluation.masking.level_folder import check_levels, open_levels
from evaluation.storage.checked_arrays import check_whole, has_hashes, is_hashed
from evaluation.storage.records import CellResult
from evaluation.storage.sealed import Unfit, read_sealed
from evaluation.storage.store import Store

__all__ = ["fitting_plan", "notes_said", "set_aside_unfit"]

_FOLDERS = ("cells", "data", "models", "maps", "gallery", "activations")
# The most bytes of images, levels, networks and activations that a start reads to check them, a few
# seconds; of larger runs, each chunk is checked when it is used.
WHOLE_BYTES = 2**30
# The most files of one folder that are set aside at a start.
_FILES = 16
_BETWEEN_LOOKS_S = 0.5


def set_aside_unfit(store: Store) -> None:
    """Set aside the files of a run that are not what was stored; its notes say which.

    Results and galleries are checked whole. Images, levels, networks and activations are opened,
    and checked whole if they are few.

    Args:
        store: the run's folder.
    """
    for name in _FOLDERS:
        for place in (store.root / name, *sorted((store.root / name).glob("[!.]*"))):
            is_folder = place.name == name or name in ("data", "maps", "activations")
            if is_folder and place.is_file():
                store.set_aside(Unfit(place, "is a file: expected a folder"))
    results = list(_results(store))
    for cell in store.listed("gallery", ".npz"):
        _checked(store, partial(store.load_arrays, store.gallery(cell)))
    whole = _bytes(store) <= WHOLE_BYTES
    for result in results:
        for check in _checks(store, result, whole=whole):
            # A folder may have several files that do not fit.
            for _ in range(_FILES):
                if _checked(store, check):
                    break
    if whole:
        for path in sorted((store.root / "activations").rglob("*.npy")):
            if has_hashes(path):  # others are made again by the cell that reads them
                _checked(store, partial(check_whole, path))


def _results(store: Store) -> Iterator[CellResult]:
    for cell in store.listed("cells", ".json"):
        try:
            result = store.result(cell)
        except Unfit as found:
            store.set_aside(found)
        else:
            yield from () if result is None else (result,)


def _read_into(found: list[CellResult | None], store: Store, cell: str) -> None:
    found.append(store.result(cell))


def _check_if_there(path: Path) -> None:
    if path.exists():
        check_whole(path)


def _checks(store: Store, result: CellResult, *, whole: bool) -> Iterator[Callable[[], object]]:
    """The checks of what a finished cell left, where it is there."""
    cell, hashes = result.id, result.hashes
    if result.kind == "data" and (store.data(cell) / "meta.json").exists():
        yield lambda: staged_hash(store.data(cell))
        # Also of larger sets if they were staged without hashes: they get them now.
        meta = store.data(cell) / "meta.json"

        def check_images() -> None:
            complete = staged_hash(store.data(cell)) is not None
            if complete and (whole or not read_sealed(meta).get("hashed")):
                check_staged(store.data(cell))

        yield check_images
    maps = store.maps(cell)
    if result.kind == "maps" and all(
        (maps / f"{name}.zarr").exists() for name in ("train", "test")
    ):
        yield lambda: open_levels(maps, hashes["maps"])
        if whole:
            yield lambda: check_levels(maps, hashes["maps"])
            for path in sorted(maps.glob("*.npy")):
                if is_hashed(path):  # if not, it is unpacked anew
                    yield partial(_check_if_there, path)
    if whole and store.model(cell).exists():
        yield lambda: store.load_model(cell)
    if whole and store.predictions(cell).exists():
        yield lambda: store.load_predictions(cell)


def _check_if_there(path: Path) -> None:
    if path.exists():
        check_whole(path)


def _checked(store: Store, check: Callable[[], object]) -> bool:
    """Do a check, and set aside what does not fit; True if everything fitted or is gone."""
    try:
        check()
    except FileNotFoundError:
        return True
    except Unfit as found:
        return not store.set_aside(found)
    return True


def _bytes(store: Store) -> int:
    return sum(
        path.stat().st_size
        for name in _FOLDERS
        for path in (store.root / name).rglob("*")
        if path.is_file()
    )


def fitting_plan(
    store: Store, kind: str, plan: Plan | LayersPlan | None = None
) -> PlanOnDisk | None:
    """The plan that a run's folder holds; one that is not what was stored is set aside.

    Args:
        store: the run's folder.
        kind: of the run that asks.
        plan: its options; None for costs, whose options may differ.

    Raises:
        RunError: the folder holds a run of another kind or with other options.
    """
    try:
        found = PlanOnDisk.of_kind(store.root, kind)
        if found is not None and plan is not None:
            found.refuse_another(plan)
    except Unfit as unfit:
        store.set_aside(unfit, "written again from the options of this command")
        return None
    return found


@contextmanager
def notes_said(store: Store, console: Console) -> Iterator[None]:
    """Print the notes of a run's processes as they come, for the length of a block.

    Args:
        store: the run's folder.
        console: gets them.
    """
    notes, done = store.notes, threading.Event()
    notes.clear()

    def say() -> None:
        for sentence in notes.new():
            console.print(sentence, soft_wrap=True, markup=False)

    def watch() -> None:
        while not done.wait(_BETWEEN_LOOKS_S):
            say()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        say()
        notes.clear()
