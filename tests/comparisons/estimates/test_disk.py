"""The disk that images and maps of a comparison take is what was stated before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from evaluation.masking.level_files import bytes_an_image
from evaluation.storage.store import Store

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]
TRAIN, TEST = 240, 80


def _bytes(folder, pattern: str = "*") -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


@pytest.mark.parametrize(("size", "unit"), [(16, "pixel"), (32, "element")])
def test_a_run_takes_what_was_stated_within_a_fifth(
    make_tiny_plan, inline_executor, tmp_path, size, unit
):
    plan = replace(
        make_tiny_plan("random", "smoe-linear", "fastcam", "gradient"),
        fractions=(0.1, 0.5, 0.9),
        modes=("roar",),
        mask_only=(),
        image_size=size,
        unit=unit,
        train_images=TRAIN,
        test_images=TEST,
    )
    store = Store(tmp_path)
    # One training a method unpacks its levels.
    nodes = [
        node
        for node in build_nodes(plan, train_images=TRAIN, test_images=TEST)
        if node.stage in ("data", "base", "maps") or "roar 10 %" in node.name
    ]
    events = list(execute(nodes, store, inline_executor(store)))
    assert [event.error for event in events if event.kind == "failed"] == []
    maps = len(plan.methods) * (3 if unit == "element" else 1)
    staged, stored = bytes_an_image((size, size), maps, cuts=plan.cuts, object_masks=True)
    took = _bytes(store.root / "data") + _bytes(store.root / "maps")
    assert 0.8 < took / (TRAIN + TEST) / (staged + stored) < 1.2
    mapped = _bytes(store.root / "data")
    mapped += sum(_bytes(store.root / "maps", name) for name in ("train.npy", "test.npy"))
    # Labels and the files' heads come on top.
    assert 1.0 < mapped / (TRAIN + TEST) / staged < 1.05
