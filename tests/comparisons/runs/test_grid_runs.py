"""Runs on the sets `volumes` and `signals`, whose objects are known, from cells to the page."""

from __future__ import annotations

import base64
import io
from math import prod

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import reports
from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from comparisons.methods import get_method
from comparisons.plans.plan import Plan, PlanError
from comparisons.runs.plan_on_disk import keep_plan
from evaluation.datasets.dataset import open_staged
from evaluation.datasets.made.signals import make_signals
from evaluation.datasets.made.volumes import make_volumes
from evaluation.masking.level_files import Levels
from evaluation.masking.levels import pixels_at
from evaluation.masking.variants import Variant
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe
from reports.families.planted import table
from reports.figures.gallery import read_gallery
from reports.records.reading import read_run

pytestmark = pytest.mark.training

TRAIN, TEST, SHARE = 20, 10, 0.1
RECIPE = Recipe(epochs=1, batch_size=10, crop_padding=0, flip=False)
SETS = {
    "volumes": (make_volumes, "convnet-3d", 16, ()),
    "signals": (make_signals, "convnet-1d", 128, (Variant("noisy-linear", "element"),)),
}


def plan_of(name: str, **changes: object) -> Plan:
    _, model, size, variants = SETS[name]
    options = {
        "data": name,
        "model": model,
        "methods": ("oracle", "smoe-linear"),
        "fractions": (SHARE,),
        "mask_only": (("kar", SHARE),),
        "measures": ("localisation", "insertion-deletion"),
        "measure_images": TEST,
        "measure_steps": 4,
        "train_images": TRAIN,
        "test_images": TEST,
        "image_size": size,
        "variants": variants,
        "recipe": RECIPE,
    }
    return Plan(**(options | changes))


@pytest.fixture(scope="module", params=SETS)
def run(request, tmp_path_factory, inline_executor):
    """A finished run: its plan, store, results by name, and the executor."""
    plan, store = plan_of(request.param), Store(tmp_path_factory.mktemp(request.param))
    titles = {name: get_method(name).described for name in plan.methods}
    keep_plan(store.root, {"plan": plan.to_json(), "command": "a test", "methods": titles})
    executor = inline_executor(store)
    nodes = build_nodes(plan, train_images=TRAIN, test_images=TEST)
    # Costs are timed for seconds, whatever the set.
    nodes = [node for node in nodes if node.stage != "profile"]
    events = list(execute(nodes, store, executor))
    assert [event.error for event in events if event.error] == []
    return plan, store, {e.node.name: e.result for e in events if e.result is not None}, nodes


def test_staged_samples_are_the_made_ones(run):
    plan, store, results, _ = run
    make, _, size, _ = SETS[plan.data]
    staged = open_staged(store.data(results["data"].id))
    for split, made in zip(
        (staged.train, staged.test), make(train=TRAIN, test=TEST, size=size), strict=True
    ):
        assert np.array_equal(split.images[:], made.images)
        assert np.array_equal(split.object_masks[:], made.object_masks)
        assert np.array_equal(split.labels, made.labels)
        axes = tuple(range(made.images.ndim - 1))
        if len(made.labels) == TRAIN:
            np.testing.assert_allclose(staged.mean, made.images.mean(axes) / 255, rtol=1e-12)
            np.testing.assert_allclose(staged.std, made.images.std(axes) / 255, rtol=1e-9)


def test_masks_have_the_exact_number_of_pixels_and_the_oracle_those_of_the_object(run):
    plan, store, results, _ = run
    make, _, size, _ = SETS[plan.data]
    _, test = make(train=TRAIN, test=TEST, size=size)
    pixels = prod(test.object_masks.shape[1:])
    wanted = pixels_at(SHARE, pixels)
    for method in plan.methods:
        levels = Levels(store.maps(results[f"maps of {method}"].id) / "test.zarr").read(0, TEST)
        assert levels.shape == test.object_masks.shape
        salient = levels == 0
        assert (salient.reshape(TEST, -1).sum(1) == wanted).all()
        if method == "oracle":
            inside = (salient & test.object_masks).reshape(TEST, -1).sum(1)
            of_object = test.object_masks.reshape(TEST, -1).sum(1)
            assert (inside == np.minimum(of_object, wanted)).all()


def test_the_mass_in_the_object_is_that_of_a_loop_over_pixels(run):
    plan, store, results, _ = run
    make, _, size, _ = SETS[plan.data]
    _, test = make(train=TRAIN, test=TEST, size=size)
    for method in plan.methods:
        found = results[f"localisation of {method}, seed 0"].history
        gallery = store.load_arrays(store.gallery(results[f"maps of {method}"].id))
        for index, saliency in zip(gallery["index"], gallery["saliency"], strict=True):
            inside, whole, least = 0.0, 0.0, float(saliency.min())
            for value, is_object in zip(
                saliency.ravel().tolist(), test.object_masks[index].ravel().tolist(), strict=True
            ):
                whole += value - least
                inside += value - least if is_object else 0.0
            assert found[index]["mass_in_object"] == pytest.approx(inside / whole, rel=1e-5)
    of_oracle = results["localisation of oracle, seed 0"].records
    assert [record.value for record in of_oracle] == [1.0]


def size_of(uri: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size


def test_the_gallery_has_a_plane_of_each_volume_and_lines_and_strips_of_each_signal(run):
    plan, store, _, _ = run
    gallery = read_gallery(read_run(store.root))
    rows = {row.title: row.pictures for row in gallery.side_by_side()}
    side = SETS[plan.data][2]
    # Width and height: two bands of 64 pixels, a strip of 48.
    shape = {"volumes": ("Volume", (side, side)), "signals": ("Signal", (side, 128))}[plan.data]
    assert {size_of(picture) for picture in rows[shape[0]]} == {shape[1]}
    of_map = {"volumes": (side, side), "signals": (side, 48)}[plan.data]
    for title in ("True object", "SMOE Scale, linear weights"):
        assert {size_of(picture) for picture in rows[title]} == {of_map}
    # The oracle's map is bright in the object alone, and its picture is of the fullest plane.
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(rows["True object"][0][22:]))).convert("RGB")
    )
    mask = gallery.object_masks[0]
    per_plane = mask.sum((1, 2)) if plan.data == "volumes" else mask.sum(keepdims=True) * 48
    assert (shown[..., 0] > 128).sum() == per_plane.max()
    pixels = side ** len(per_plane.shape) if plan.data == "signals" else side**3
    for column in gallery.masked(0).columns:
        assert column.fewest == column.most == pixels_at(SHARE, pixels)


@pytest.mark.parametrize("run", ["volumes"], indirect=True)
def test_the_page_has_rows_and_pictures_of_every_method(run):
    plan, store, _, _ = run
    page = reports.build(store.root).read_text()
    for method in plan.methods:
        # Masked pictures of two volumes.
        assert page.count(f"{get_method(method).title}, KAR") >= 2
    assert 'alt="Volume, ' in page
    assert "16 × 16 × 16" in page
    assert "of 4096<br>" in page


def test_the_table_of_known_objects_has_the_intervals_of_their_formulas(run):
    plan, store, results, _ = run
    rows = {row.split(" | ")[0][2:]: row for row in table(store.root).splitlines()}
    assert rows["True object"].startswith("| True object | 100.0 (100.0 to 100.0) | ")
    shares = [
        entry["mass_in_object"] for entry in results["localisation of smoe-linear, seed 0"].history
    ]
    low, high = stats.t.interval(0.95, TEST - 1, np.mean(shares), stats.sem(shares))
    mass = f"{100 * np.mean(shares):.1f} ({100 * low:.1f} to {100 * high:.1f})"
    cells = [mass]
    for mode in plan.modes:
        (right,) = (
            record.value
            for record in results[f"smoe-linear, {mode} 10 %, seed 0"].records
            if record.metric == "accuracy"
        )
        # Wilson 1927, with z of 95 %.
        z, n = stats.norm.ppf(0.975), TEST
        middle = (right + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(right * (1 - right) / n + z**2 / (4 * n**2))
        ends = f"{100 * (middle - half):.1f} to {100 * (middle + half):.1f}"
        cells.append(f"{100 * right:.1f} ({ends})")
    assert rows["SMOE Scale, linear weights"].endswith(" | ".join(["", *cells])[1:] + " |")


def test_a_run_that_lost_results_makes_the_same_records_again(run, inline_executor):
    _, store, results, nodes = run
    lost = ["smoe-linear, roar 10 %, seed 0", "localisation of smoe-linear, seed 0"]
    for name in lost:
        store.cell(results[name].id).unlink()
    executor = inline_executor(store)
    again = {e.node.name: e.result for e in execute(nodes, store, executor) if e.result is not None}
    assert {cell.id for cell in executor.submitted} == {results[name].id for name in lost}
    for name in lost:
        before, after = results[name], again[name]
        kept = [
            [(each.metric, each.value) for each in result.records if not each.timed]
            for result in (before, after)
        ]
        assert kept[0] == kept[1]
        assert after.hashes == before.hashes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("volumes", {"methods": ("sobel",)}, "method 'sobel' is for images, and these inputs are"),
        ("signals", {"methods": ("random+blur",)}, r"'random\+blur' is for images, and .* signals"),
        ("volumes", {"measures": ("road",)}, "'road' is for signals and images, .* volumes: leave"),
        ("signals", {"measures": ("idsds",)}, "measure 'idsds' is for images"),
        ("volumes", {"fill": "noisy-linear"}, "not for volumes: take --fill mean"),
        ("signals", {"recipe": Recipe(flip=True)}, "not for signals: give --augment none"),
        ("volumes", {"recipe": Recipe(flip=False)}, "not for volumes: give --augment none"),
        (
            "volumes",
            {"weights": "torchvision:DEFAULT", "model": "r3d_18"},
            "volumes have 1 of their own channels",
        ),
    ],
)
def test_what_is_for_images_alone_is_refused_before_anything_runs(name, changes, message):
    changes = {"variants": (), **changes}
    with pytest.raises(PlanError, match=message):
        plan_of(name, **changes)
