"""Maps that several workers make in parts: the same levels, hashes and cells as made at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.engines.local import LocalExecutor
from comparisons.engines.resources import Resources
from comparisons.graph import parts as map_parts
from comparisons.graph.nodes import build_nodes
from comparisons.graph.parts import part_of, parts_of
from comparisons.methods import METHODS, map_set
from comparisons.methods.map_set import MapSet
from evaluation.datasets.listing import Request
from evaluation.datasets.load import load_dataset
from evaluation.masking import level_files as maps_module
from evaluation.masking.level_files import Levels
from evaluation.masking.variants import Variant, crossfitted
from evaluation.storage.checkpoint import Progress
from evaluation.storage.store import Store

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]
TRAIN, TEST, SHARD = 160, 96, 64  # 3 shards of training images, 2 of test images
VARIANTS = (
    Variant(mask_unit="element"),
    Variant(target_from=crossfitted(2)),
    Variant(fill="noisy-linear", recursive=True),
)


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maps_module, "SHARD_IMAGES", SHARD)
        patch.setattr(maps_module, "CHUNK_IMAGES", SHARD // 2)
        patch.setattr(map_set, "CHUNK_IMAGES", SHARD // 2)
        yield


@pytest.fixture(scope="module")
def plan(make_tiny_plan):
    return replace(
        make_tiny_plan("gradient"),
        modes=("roar",),
        fractions=(0.3, 0.6),
        mask_only=(),
        train_images=TRAIN,
        test_images=TEST,
        variants=VARIANTS,
    )


@pytest.fixture(scope="module")
def whole(plan, small_shards, tmp_path_factory, inline_executor):
    """A finished run of every variant, whose maps were made at once."""
    store = Store(tmp_path_factory.mktemp("whole"))
    executor = inline_executor(store)
    nodes = build_nodes(plan, train_images=TRAIN, test_images=TEST)
    events = list(execute(nodes, store, executor))
    assert [(e.node.name, e.error) for e in events if e.kind == "failed"] == []
    return SimpleNamespace(
        store=store,
        nodes=nodes,
        results={e.node.name: e.result for e in events},
        cells={cell.id: cell for cell in executor.submitted},
    )


@pytest.fixture
def without_maps(whole, tmp_path) -> Store:
    """The same run with no map, and no result of a cell that makes some."""
    shutil.copytree(whole.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    shutil.rmtree(store.root / "maps")
    for result in whole.results.values():
        if result.kind == "maps":
            store.cell(result.id).unlink()
    return store


def _levels(store: Store, maps: str) -> list[np.ndarray]:
    arrays = [Levels(store.maps(maps) / f"{split}.zarr") for split in ("train", "test")]
    return [array.read(0, len(array)) for array in arrays]


def test_parts_hold_every_shard_once_and_few_images_have_none():
    assert parts_of(10_000, 4_000) == []
    assert parts_of(16 * 1024 - 1024, 1024) == []
    for train, test in ((16 * 1024, 1), (50_000, 10_000), (1_281_167, 50_000)):
        parts = parts_of(train, test)
        shards = -(-train // 1024) + -(-test // 1024)
        assert [shard for part in parts for shard in part] == list(range(shards))
        assert max(len(part) for part in parts) == 16


def test_a_plan_in_parts_gives_the_cells_of_one_without(
    plan, whole, without_maps, monkeypatch, inline_executor
):
    monkeypatch.setattr(map_parts, "PART_SHARDS", 2)
    nodes = build_nodes(plan, train_images=TRAIN, test_images=TEST)
    sets = [node for node in nodes if node.stage == "maps"]
    assert len(nodes) == len(whole.nodes) + 3 * len(sets)
    executor = inline_executor(without_maps)
    # The last part first: their order is nobody's business.
    reordered = [
        replace(node, priority=(-9, 0, -place)) if node.stage == "part" else node
        for place, node in enumerate(nodes)
    ]
    events = list(execute(reordered, without_maps, executor))
    assert {event.node.stage for event in events if event.kind == "finished"} == {"maps", "part"}
    # Everything else was found: what is trained on the maps depends on their hash.
    assert {e.kind for e in events if e.node.stage not in ("maps", "part")} == {"found"}
    made = [event for event in events if event.kind == "finished" and event.node.stage == "maps"]
    assert len(made) == len(sets) == 4
    for event in made:
        before = whole.results[event.node.name]
        assert (event.result.id, event.result.hashes) == (before.id, before.hashes)
        for levels, expected in zip(
            _levels(without_maps, before.id), _levels(whole.store, before.id), strict=True
        ):
            np.testing.assert_array_equal(levels, expected)
        timed = ("attribution_ms", "attribution_images_per_s")
        assert [r.metric for r in event.result.records] == [r.metric for r in before.records]
        assert [r for r in event.result.records if r.metric not in timed] == [
            r for r in before.records if r.metric not in timed
        ]


def test_the_whole_makes_no_map_that_its_parts_made(whole, without_maps, monkeypatch):
    result = whole.results["maps of gradient"]
    cell = whole.cells[result.id]
    for shards in (range(3, 5), range(3)):
        run_cell(part_of(cell, shards), without_maps)
    folder = without_maps.maps(cell.id)
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("c/*/0/0")}
    assert len(files) == 5
    first, second = folder / "times-0-3.json", folder / "times-3-5.json"
    assert [len(json.loads(path.read_text())["ms"]) for path in (first, second)] == [5, 3]
    # A pause of a minute in one chunk does not make the method slow.
    first.write_text('{"ms": [2.0, 3.0, 60000.0]}')
    second.write_text('{"ms": [2.5, 3.5]}')
    again = run_cell(cell, without_maps)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.hashes == result.hashes
    values = {record.metric: record.value for record in again.records}
    assert values["attribution_ms"] == 3.0
    assert values["attribution_images_per_s"] == pytest.approx(1000 / 3)


def test_a_part_that_was_killed_continues_at_its_first_missing_shard(
    whole, without_maps, monkeypatch
):
    cell = whole.cells[whole.results["maps of gradient"].id]
    part = part_of(cell, range(4))
    plain, asked = METHODS["gradient"].prepare, []

    def prepare(model):
        explain = plain(model)

        def counted(batch) -> torch.Tensor:
            asked.append(batch.index.tolist())
            if len(asked) == 4:
                raise KeyboardInterrupt
            return explain(batch)

        return counted

    monkeypatch.setitem(METHODS, "gradient", replace(METHODS["gradient"], prepare=prepare))
    with pytest.raises(KeyboardInterrupt):
        run_cell(part, without_maps)
    assert without_maps.result(part.id) is None
    assert asked[-1] == list(range(96, 128))
    del asked[:]
    asked.append([])
    asked += [[]] * 3  # past the one that is interrupted
    run_cell(part, without_maps)
    # The first shard was whole; of the second all is made again; the fourth is of the test images.
    seen = [index for batch in asked for index in batch]
    assert seen == [*range(64, 160), *range(160, 224)]
    assert run_cell(cell, without_maps).hashes == whole.results["maps of gradient"].hashes


def test_zarr_python_reads_what_parts_wrote_and_their_hash(whole, without_maps, monkeypatch):
    zarr = pytest.importorskip("zarr", minversion="3")
    result = whole.results["maps of gradient [unit element]"]
    cell = whole.cells[result.id]
    for shards in (range(2, 5), range(2)):
        run_cell(part_of(cell, shards), without_maps)
    run_cell(cell, without_maps)
    for split, expected in zip(("train", "test"), _levels(whole.store, cell.id), strict=True):
        opened = zarr.open_array(without_maps.maps(cell.id) / f"{split}.zarr", mode="r")
        np.testing.assert_array_equal(opened[:], expected)
        before = zarr.open_array(whole.store.maps(cell.id) / f"{split}.zarr", mode="r")
        assert opened.attrs["content_hash"] == before.attrs["content_hash"]


@pytest.mark.slow
def test_processes_make_parts_of_one_array_at_a_time(
    make_tiny_plan, tmp_path, monkeypatch, inline_executor
):
    monkeypatch.setattr(maps_module, "SHARD_IMAGES", 1024)  # workers know of no other
    plan = replace(make_tiny_plan("sobel"), train_images=2100, test_images=1030)
    wanted = ("data", "base", "maps", "part")

    def run(store: Store, executor) -> dict:
        nodes = build_nodes(plan, train_images=2100, test_images=1030)
        nodes = [node for node in nodes if node.stage in wanted]
        events = list(execute(nodes, store, executor))
        assert [event.error for event in events if event.kind == "failed"] == []
        return {event.node.name: event.result for event in events if event.result is not None}

    before = run(Store(tmp_path / "whole"), inline_executor(Store(tmp_path / "whole")))
    monkeypatch.setattr(map_parts, "PART_SHARDS", 1)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    store = Store(tmp_path / "parts")
    shutil.rmtree(store.root / "maps")
    for result in before.values():
        if result.kind == "maps":
            store.cell(result.id).unlink()
    with LocalExecutor.running(store, workers=2, resources=Resources()) as executor:
        after = run(store, executor)
    assert sum(name.startswith("maps of sobel, part") for name in after) == 5
    made, at_once = after["maps of sobel"], before["maps of sobel"]
    assert (made.id, made.hashes) == (at_once.id, at_once.hashes)
    assert "attribution_ms" in {record.metric for record in made.records}
    assert list(store.root.rglob(".partial-*")) == []


def test_the_share_that_is_made_is_told_after_each_chunk(small_shards, tmp_path):
    request = Request(train_images=TRAIN, test_images=TEST, image_size=16, seed=0)
    dataset, told = load_dataset("shapes", request), []
    targets = {name: np.zeros(len(dataset.split(name).labels), int) for name in ("train", "test")}
    maps = MapSet(
        lambda batch: batch.inputs.sum(1), dataset, targets, tmp_path, (0.5,), 0, told=told.append
    )
    maps.write(range(1, 3))  # the second and third shard of the training images: 64 and 32
    assert told == pytest.approx([32 / 96, 64 / 96, 1.0])
    told.clear()
    maps.finish()
    # What is there already counts from the first: 64 new, 96 old; 96 of test images.
    assert told == pytest.approx([made / 256 for made in (32, 64, 192, 224, 256)])


def test_a_run_says_how_far_maps_are(plan, small_shards, tmp_path, monkeypatch, inline_executor):
    monkeypatch.setattr(Progress, "due", True)
    store = Store(tmp_path)
    nodes = build_nodes(replace(plan, variants=()), train_images=TRAIN, test_images=TEST)
    wanted = [node for node in nodes if node.stage in ("data", "base", "maps", "part")]
    list(execute(wanted, store, inline_executor(store)))
    said = [sentence for sentence in store.notes.new() if sentence.startswith("maps of gradient: ")]
    assert said[-1] == "maps of gradient: 100 % in 0 min"
    assert len(said) == 8
