"""Each kind of cell, on a tiny image set: what it reads, leaves and never does twice."""

from __future__ import annotations

import math
import shutil
import subprocess
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.cells import run as cells_module
from comparisons.cells import trained
from comparisons.cells.cell import Cell
from comparisons.cells.run import run_cell
from comparisons.methods import METHODS, Batch, Method
from comparisons.methods.map_set import MapSet
from evaluation.datasets.dataset import open_staged
from evaluation.hardware import source_commit
from evaluation.masking import resident
from evaluation.masking.level_files import Levels
from evaluation.masking.levels import Masking, saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.hashes import content_hash
from evaluation.storage.records import METRICS, unpack_bits
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe, train

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
]


def _dataset(run):
    return open_staged(run.store.data(run.results["data"].id))


def _base_network(run) -> nn.Module:
    network = build_network("resnet9", 8, 123, size=(16, 16))
    network.load_state_dict(run.store.load_model(run.results["unmasked, seed 0"].id))
    return network.eval()


def _copy(run, tmp_path) -> Store:
    shutil.copytree(run.store.root, tmp_path / "copy")
    return Store(tmp_path / "copy")


def test_ids_of_cells_stay_what_they_were():
    # Runs that are finished name their cells by these: a change makes them start again.
    request = {"train_images": 10000, "test_images": 4000, "image_size": None, "seed": 0}
    spec = {"source": "folder:runs/cifar10-images", "request": request}
    assert Cell("data", spec).id == "3d7ad4a8d7032fbb"


def test_every_cell_finished(tiny):
    assert {event.kind for event in tiny.events} == {"started", "finished"}
    assert set(tiny.results) == {node.name for node in tiny.nodes}
    # Random at 50 % is its own dual: one training; the others two; a mask-only one each.
    kinds = [result.kind for result in tiny.results.values()]
    assert kinds.count("retrain") == 1 + 2 + 2
    assert kinds.count("mask_only") == kinds.count("maps") == kinds.count("profile") == 3


def test_results_on_disk_are_those_returned(tiny):
    kept = {result.id: result for result in tiny.store.results()}
    for result in tiny.results.values():
        assert kept[result.id].to_json() == result.to_json()
        assert result.seconds > 0
        assert torch.__version__.startswith(result.environment["torch"])
        assert result.environment["threads"] == 1
        assert (date.today() - date.fromisoformat(result.environment["date"])).days <= 1
        for record in result.records:
            assert record.cell == result.id
            assert record.unit == METRICS[record.metric].unit
            assert math.isfinite(record.value)


def test_accuracies_are_those_of_the_bits(tiny):
    for result in tiny.results.values():
        if result.kind in ("base", "retrain", "mask_only"):
            correct = unpack_bits(result.correct, result.images)
            assert len(correct) == 32
            measured = {record.value for record in result.records if not record.timed}
            assert measured == {correct.mean()}


def test_base_weights_give_the_recorded_answers_and_predictions(tiny):
    dataset, network = _dataset(tiny), _base_network(tiny)
    base = tiny.results["unmasked, seed 0"]
    assert state_hash(network) == base.hashes["model"]
    predicted = np.load(tiny.store.predictions(base.id))
    for name in ("train", "test"):
        split = dataset.split(name)
        pixels = torch.from_numpy(split.images / 255.0)
        inputs = ((pixels - torch.tensor(dataset.mean)) / torch.tensor(dataset.std)).float()
        with torch.no_grad():
            expected = network(inputs.permute(0, 3, 1, 2)).argmax(1).numpy()
        np.testing.assert_array_equal(predicted[name], expected)
    correct = unpack_bits(base.correct, base.images)
    np.testing.assert_array_equal(correct, predicted["test"] == dataset.test.labels)


def test_maps_explain_the_prediction_never_the_label(tiny):
    dataset, network = _dataset(tiny), _base_network(tiny)
    predicted = np.load(tiny.store.predictions(tiny.results["unmasked, seed 0"].id))
    folder = tiny.store.maps(tiny.results["maps of gradient"].id)
    for name, first in (("train", 0), ("test", 64)):
        split = dataset.split(name)
        inputs = InputView(split.images, dataset.mean, dataset.std)(np.arange(32)).contiguous()

        def gradient(target, inputs=inputs) -> np.ndarray:
            x = inputs.clone().requires_grad_()
            network(x)[torch.arange(32), torch.tensor(target[:32])].sum().backward()
            return x.grad.abs().sum(1).numpy()

        kept = Levels(folder / f"{name}.zarr").read(0, 32)
        expected = saliency_levels(gradient(predicted[name]), (0.5,), first + np.arange(32))
        agree = (kept == expected).mean((1, 2))
        assert agree.mean() > 0.99  # single pixels may swap by rounding
        wrong = predicted[name][:32] != split.labels[:32]
        assert wrong.sum() > 5
        labels = saliency_levels(gradient(split.labels), (0.5,), first + np.arange(32))
        assert (kept == labels).mean((1, 2))[wrong].mean() < 0.9


def test_maps_are_hashed_and_measured(tiny):
    result = tiny.results["maps of oracle"]
    folder = tiny.store.maps(result.id)
    levels = [Levels(folder / f"{name}.zarr") for name in ("train", "test")]
    assert result.hashes["maps"] == content_hash(*(array.read(0, len(array)) for array in levels))
    values = {record.metric: record.value for record in result.records}
    assert values["pointing_game"] == 1.0  # the true object's own mask peaks in the object
    assert values["stored_bytes"] == sum(array.stored_bytes() for array in levels) / 96
    assert values["attribution_ms"] > 0


def test_random_points_at_objects_by_chance(tiny):
    dataset = _dataset(tiny)
    values = {r.metric: r.value for r in tiny.results["maps of random"].records}
    share = dataset.test.object_masks.mean()
    assert abs(values["pointing_game"] - share) < 4 * math.sqrt(share * (1 - share) / 32)


def test_trainings_of_a_seed_share_start_and_order_with_the_unmasked_one(tiny):
    trained = [r for r in tiny.results.values() if r.kind in ("base", "retrain", "mask_only")]
    assert len(trained) == 1 + 5 + 3
    assert len({result.hashes["init"] for result in trained}) == 1
    assert len({result.hashes["order"] for result in trained}) == 1
    assert len({result.hashes["model"] for result in trained}) == len(trained)
    assert all([entry["epoch"] for entry in result.history] == [1] for result in trained)


@pytest.mark.parametrize("mode", ["roar", "kar"])
def test_a_retraining_is_the_plain_training_on_images_masked_beforehand(tiny, mode):
    # Images with the mean put in by hand, in place of a masking view.
    dataset = _dataset(tiny)
    folder = tiny.store.maps(tiny.results["maps of gradient"].id)
    levels = Levels(folder / "train.zarr").read(0, 64)
    kept = Masking(mode, 0.5, (0.5,)).kept(levels)

    class ByHand(InputView):
        def read(self, indices):
            return *super().read(indices), torch.from_numpy(kept[indices])

        def to_inputs(self, raw):
            inputs = super().to_inputs(raw)
            inputs[~raw[-1][:, None].expand_as(inputs)] = 0
            return inputs

    network = build_network("resnet9", 8, 0, size=(16, 16))
    view = ByHand(dataset.train.images, dataset.mean, dataset.std)
    training = train(network, view, dataset.train.labels, Recipe(epochs=1, batch_size=16), 0)
    result = tiny.results[f"gradient, {mode} 50 %, seed 0"]
    assert training.init_hash == result.hashes["init"]
    assert training.history[0]["loss"] == result.history[0]["loss"]
    test_kept = Masking(mode, 0.5, (0.5,)).kept(Levels(folder / "test.zarr").read(0, 32))
    plain = InputView(dataset.test.images, dataset.mean, dataset.std)(np.arange(32))
    masked = torch.where(torch.from_numpy(test_kept)[:, None], plain, torch.zeros(()))
    with torch.no_grad():
        answers = network.eval()(masked).argmax(1).numpy()
    correct = unpack_bits(result.correct, 32)
    assert ((answers == dataset.test.labels) == correct).mean() > 0.96


def test_records_say_what_they_are(tiny):
    record, waited = tiny.results["gradient, kar 50 %, seed 0"].records
    assert (record.method, record.mode, record.fraction, record.seed) == ("gradient", "kar", 0.5, 0)
    assert (record.metric, record.dataset, record.model) == ("accuracy", "shapes", "resnet9")
    assert record.parameters == dict(METHODS["gradient"].parameters)
    assert record.layer is None
    assert record.derived_from is None
    assert (waited.metric, waited.mode, waited.timed) == ("data_wait_share", "kar", True)
    base, _ = tiny.results["unmasked, seed 0"].records
    assert (base.method, base.mode, base.fraction, base.metric) == (
        "none",
        "unmasked",
        None,
        "accuracy",
    )
    mask, _ = tiny.results["oracle, mask only, roar 50 %, seed 0"].records
    assert mask.metric == "mask_only_accuracy"


def test_random_s_other_end_is_taken_over_and_says_so(tiny):
    removed, _, kept = tiny.results["random, roar 50 %, seed 0"].records
    assert (removed.mode, removed.fraction, removed.derived_from) == ("roar", 0.5, None)
    assert (kept.mode, kept.fraction, kept.value) == ("kar", 0.5, removed.value)
    assert kept.derived_from == "roar at 50 %: this method is its own dual"
    assert "random, kar 50 %, seed 0" not in tiny.results


def test_a_network_on_masks_alone_never_sees_a_pixel(tiny, tmp_path):
    store = _copy(tiny, tmp_path)
    result = tiny.results["gradient, mask only, roar 50 %, seed 0"]
    for file in store.data(result.spec["data"]).glob("*_images.npy"):
        np.save(file, np.zeros_like(np.load(file)))
    store.cell(result.id).unlink()
    again = run_cell(tiny.cells[result.id], store)
    assert again.hashes == result.hashes
    assert again.correct == result.correct


def test_costs_are_measured(tiny):
    values = {r.metric: r.value for r in tiny.results["cost of gradient"].records}
    timed = {"forward_ms", "map_ms", "overhead_percent", "first_ms"}
    operations = {"map_flops", "map_elementwise", "map_transcendental", "map_reduction"}
    assert set(values) == timed | operations | {"peak_bytes", "scratch_bytes"}
    # A gradient takes no logarithm; its absolute values and the ReLUs are elementwise.
    assert values["map_transcendental"] == 0
    assert values["map_elementwise"] > 0
    free = {r.metric: r.value for r in tiny.results["cost of random"].records}
    assert values["map_flops"] > free["map_flops"] == 0


def test_the_gallery_holds_one_image_of_each_class(tiny):
    dataset = _dataset(tiny)
    kept = np.load(tiny.store.gallery(tiny.results["maps of gradient"].id))
    assert sorted(dataset.test.labels[kept["index"]]) == list(range(8))
    assert kept["saliency"].shape == kept["levels"].shape == (8, 16, 16)
    levels = Levels(tiny.store.maps(tiny.results["maps of gradient"].id) / "test.zarr").read(0, 32)
    assert (kept["levels"] == levels[kept["index"]]).mean() > 0.99


def test_a_finished_cell_is_not_run_again(tiny, monkeypatch):
    monkeypatch.setattr(cells_module, "CELL_KINDS", {})
    for cell in tiny.cells.values():
        assert run_cell(cell, tiny.store).to_json() == tiny.store.result(cell.id).to_json()


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    "name", ["unmasked, seed 0", "oracle, roar 50 %, seed 0", "maps of gradient"]
)
def test_a_cell_done_again_gives_the_same_to_the_last_digit(
    tiny, tmp_path, name, held, monkeypatch
):
    store = _copy(tiny, tmp_path)
    if not held:
        # Images that do not fit into the device's memory are read batch by batch.
        monkeypatch.setattr(resident, "free_bytes", lambda _: 0)
        monkeypatch.setattr(trained, "_SAID", set())
    before = tiny.results[name]
    store.cell(before.id).unlink()
    if before.kind == "maps":
        shutil.rmtree(store.maps(before.id))
    again = run_cell(tiny.cells[before.id], store)
    assert again.hashes == before.hashes
    assert again.correct == before.correct
    assert [entry["loss"] for entry in again.history] == [e["loss"] for e in before.history]
    assert [r for r in again.records if not r.timed] == [r for r in before.records if not r.timed]
    said = [note for note in store.notes.new() if "read batch by batch" in note]
    assert len(said) == (not held and before.kind != "maps")


def test_what_does_not_fit_is_said_once(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda _: 0)
    monkeypatch.setattr(trained, "_SAID", set())
    store, view = Store(tmp_path), trained.whole_views(_dataset(tiny))[0]
    for _ in range(2):
        assert trained.resident(store, "cpu", view) == (view,)
    (said,) = store.notes.new()
    assert said == trained.too_large(view.images.nbytes, "cpu")


def test_maps_that_were_interrupted_go_on(tiny, tmp_path):
    store = _copy(tiny, tmp_path)
    before = tiny.results["maps of gradient"]
    folder = store.maps(before.id)
    store.cell(before.id).unlink()
    shutil.rmtree(folder / "test.zarr" / "c")
    shard = folder / "train.zarr" / "c" / "0" / "0" / "0"
    written = shard.stat().st_mtime_ns
    again = run_cell(tiny.cells[before.id], store)
    assert again.hashes == before.hashes
    assert shard.stat().st_mtime_ns == written


def test_the_store_holds_no_half_file(tiny):
    assert list(tiny.store.root.rglob(".partial-*")) == []


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (lambda n: torch.full((n, 16, 16), math.nan), "image 0 holds NaN or infinity"),
        (
            lambda n: torch.zeros(n, 3, 16, 16),
            r"maps of shape \(64, 3, 16, 16\): expected \(64, 16, 16\)",
        ),
        (lambda n: torch.zeros(n, 8, 8), r"maps of shape \(64, 8, 8\)"),
    ],
)
def test_maps_that_cannot_be_ranked_are_refused(tiny, tmp_path, maps, message):
    targets = {"train": np.zeros(64, np.int64), "test": np.zeros(32, np.int64)}

    def explain(batch: Batch) -> torch.Tensor:
        return maps(len(batch.inputs))

    with pytest.raises(ValueError, match=message):
        MapSet(explain, _dataset(tiny), targets, tmp_path, cuts=(0.5,), seed=0).finish()


def test_a_method_that_gives_nan_leaves_no_result(tiny, tmp_path, monkeypatch):
    def prepare(model: nn.Module):
        return lambda batch: batch.inputs[:, 0] * math.nan

    monkeypatch.setitem(METHODS, "broken", Method("broken", "Broken", "control", "x", {}, prepare))
    spec = dict(tiny.results["maps of random"].spec) | {"method": "broken"}
    store = _copy(tiny, tmp_path)
    cell = Cell("maps", spec)
    with pytest.raises(ValueError, match="NaN or infinity"):
        run_cell(cell, store)
    assert store.result(cell.id) is None


def test_the_commit_is_git_s_own():
    root = Path(__file__).parents[3]
    words = ["git", "-C", str(root), "rev-parse", "HEAD"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    if said.returncode:
        pytest.skip("no checkout of git")
    found = source_commit().removesuffix("+")
    assert len(found) >= 12
    assert said.stdout.startswith(found)
