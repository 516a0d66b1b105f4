"""Damage to a finished run that is started again: the same records, a sentence for each file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from comparisons.engines import select
from comparisons.engines.select import Engine
from comparisons.plans.plan import Plan
from comparisons.runs import compare
from comparisons.runs.compare import run_plan
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore::UserWarning")]


class _Finished:
    """A finished run, and what it takes to start it again in this process."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self.plan, self.root = plan, root
        self.start(root)
        self.records = _records(root)

    def start(self, out: Path) -> str:
        said = StringIO()
        console = Console(file=said, width=1000)
        run_plan(self.plan, out, engine=Engine(workers=1), command="a command", console=console)
        return said.getvalue()

    def id(self, kind: str, method: str | None = None) -> str:
        return _id(self.root, kind, method)


def _id(root: Path, kind: str, method: str | None = None) -> str:
    found = (r for r in Store(root).results() if r.kind == kind)
    return next(r.id for r in found if method in (None, r.spec.get("method")))


def _records(root: Path) -> dict[str, list[object]]:
    """All that is not timed, by cell."""
    return {
        result.id: [
            [asdict(record) for record in result.records if not record.timed],
            *(result.correct, {n: h for n, h in result.hashes.items() if n in ("init", "model")}),
        ]
        for result in Store(root).results()
        if result.kind != "profile"
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_tiny_plan, inline_executor):
    """Centre and gradient at one fraction, in this process and without a trial."""

    class InProcess:
        @staticmethod
        @contextmanager
        def running(store, **_):
            yield inline_executor(store)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(select, "LocalExecutor", InProcess)
        patched.setattr(compare, "_can_use", lambda _: False)
        plan = replace(make_tiny_plan("centre", "gradient"), modes=("roar",), mask_only=())
        yield _Finished(plan, tmp_path_factory.mktemp("finished") / "run")


# What is stored: its path in the run's folder.
Find = Callable[[Path], Path]
THINGS: dict[str, Find] = {
    "plan": lambda root: root / "plan.json",
    "result of the images": lambda root: root / "cells" / f"{_id(root, 'data')}.json",
    "result of the network": lambda root: root / "cells" / f"{_id(root, 'base')}.json",
    "result of a retraining": lambda root: root / "cells" / f"{_id(root, 'retrain')}.json",
    "result of maps": lambda root: root / "cells" / f"{_id(root, 'maps', 'gradient')}.json",
    "facts of the images": lambda root: _data(root) / "meta.json",
    "images": lambda root: _data(root) / "train_images.npy",
    "test images": lambda root: _data(root) / "test_images.npy",
    "labels": lambda root: _data(root) / "train_labels.npy",
    "object masks": lambda root: _data(root) / "test_object_masks.npy",
    "hashes of the images": lambda root: _data(root) / "train_images.hash",
    "network": lambda root: root / "models" / f"{_id(root, 'base')}.pt",
    "predictions": lambda root: root / "models" / f"{_id(root, 'base')}.predictions.npz",
    "gallery": lambda root: root / "gallery" / f"{_id(root, 'maps', 'gradient')}.npz",
    "facts of the levels": lambda root: _maps(root) / "train.zarr" / "zarr.json",
    "shard of levels": lambda root: _maps(root) / "train.zarr" / "c" / "0" / "0" / "0",
    "seal of the levels": lambda root: _maps(root) / "seal.json",
    "unpacked levels": lambda root: _maps(root) / "train.npy",
}


def _data(root: Path) -> Path:
    return root / "data" / _id(root, "data")


def _maps(root: Path) -> Path:
    return root / "maps" / _id(root, "maps", "gradient")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _null(path: Path) -> None:
    path.write_text("null")


def _list(path: Path) -> None:
    path.write_text("[1, 2, 3]")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("something")


def _other(path: Path) -> None:
    """The file of another cell, split or kind in its place."""
    others = sorted(p for p in path.parent.glob(f"*{path.suffix}") if p.is_file() and p != path)
    path.write_bytes(others[0].read_bytes() if others else b'{"some": "thing"}')


def _extra_field(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "extra": 1}))


def _changed_number(path: Path) -> None:
    text = path.read_text()
    place = list(re.finditer(r"\d", text))[-1].start()
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


DAMAGES = (_flip, _truncate, _empty, _null, _list, _folder, _other)
OF_JSON = (_extra_field, _changed_number)


NO_JSON = {
    *("images", "test images", "labels", "object masks", "network", "predictions", "gallery"),
    *("shard of levels", "unpacked levels"),
}


def _cases() -> list[object]:
    cases = []
    for number, (thing, find) in enumerate(THINGS.items()):
        for place, damage in enumerate(DAMAGES if thing in NO_JSON else DAMAGES + OF_JSON):
            # A few here, all of them in the long tests.
            short = number % 3 == 0 and place == number % len(DAMAGES)
            marks = () if short else pytest.mark.slow
            name = f"{thing}-{damage.__name__[1:]}"
            cases.append(pytest.param(find, damage, id=name, marks=marks))
    return cases


@pytest.mark.parametrize(("find", "damage"), _cases())
def test_a_damaged_file_is_named_set_aside_and_made_again(finished, tmp_path, find, damage):
    root = tmp_path / "run"
    shutil.copytree(finished.root, root)
    path = find(root)
    # A retraining and maps run again, which read images, levels, the network and its predictions.
    unfinished = [_id(root, "retrain", "gradient"), _id(root, "maps", "centre")]
    kept = {p: p.read_bytes() for p in (root / "cells").iterdir() if p.stem not in unfinished}
    damage(path)
    for cell in unfinished:
        if Store(root).cell(cell) != path:
            Store(root).cell(cell).unlink()
    said = finished.start(root)
    sentences = [line for line in said.splitlines() if "set aside" in line and str(root) in line]
    assert sentences, said
    # By its own name, or by that of the folder or the array that it belongs to.
    named = [path, path.with_suffix(".npy"), *path.parents]
    inside = [str(place) for place in named if root in place.parents]
    assert all(any(name in sentence for name in inside) for sentence in sentences[:1])
    assert any((root / "set-aside").rglob("*"))
    assert (root / "set-aside" / "why.txt").read_text().splitlines() == sentences
    assert _records(root) == finished.records
    for other, content in kept.items():
        if other != path:
            assert other.read_bytes() == content  # no other cell ran again
    assert "set aside" not in finished.start(root)  # and all is well again
