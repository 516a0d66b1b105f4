"""Other readings of ROAR and KAR: what their cells are, and what may not differ between them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from graphlib import TopologicalSorter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comparisons.cells.run import run_cell
from comparisons.cli.options import as_variants
from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from comparisons.methods import METHODS
from comparisons.plans.plan import Plan, PlanError
from evaluation.datasets.dataset import open_staged
from evaluation.masking.crossfit import SubsetView, fold_of
from evaluation.masking.imputation import noisy_linear
from evaluation.masking.level_files import Levels
from evaluation.masking.levels import Masking, continued_levels, pixels_at, saliency_levels
from evaluation.masking.variants import Variant, crossfitted
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.storage.records import CellResult, unpack_bits
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe, predictions, train

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already"),
    pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere"),
]
NOISY, ELEMENT = Variant(fill="noisy-linear"), Variant(mask_unit="element")
CROSSFIT, RECURSIVE = Variant(target_from=crossfitted(2)), Variant(recursive=True)
VARIANTS = (NOISY, ELEMENT, CROSSFIT, RECURSIVE)
FRACTIONS = (0.3, 0.6)


@pytest.fixture(scope="module")
def plain(make_tiny_plan) -> Plan:
    plan = make_tiny_plan("random", "smoe-linear", "gradient")
    return replace(plan, fractions=FRACTIONS, mask_only=())


@pytest.fixture(scope="module")
def run(plain, tmp_path_factory, inline_executor):
    """A finished run of every variant, on 64 images of 16x16."""
    store = Store(tmp_path_factory.mktemp("variants"))
    executor = inline_executor(store)
    nodes = build_nodes(replace(plain, variants=VARIANTS), train_images=64, test_images=32)
    events = list(execute(nodes, store, executor))
    failed = [(event.node.name, event.error) for event in events if event.kind == "failed"]
    assert failed == []

    return SimpleNamespace(
        store=store,
        results={event.node.name: event.result for event in events},
        cells={cell.id: cell for cell in executor.submitted},
    )


def _tagged(name: str, variant: Variant) -> str:
    return f"{name} [{variant.title}]"


def _levels(run, name: str, split: str) -> np.ndarray:
    levels = Levels(run.store.maps(run.results[name].id) / f"{split}.zarr")
    return levels.read(0, len(levels))


def _dataset(run):
    return open_staged(run.store.data(run.results["data"].id))


def _specs(plan: Plan):
    """Every cell of a plan, made from results that say nothing, in an order that works."""
    nodes = {node.name: node for node in build_nodes(plan, train_images=64, test_images=32)}
    done, cells = {}, {}
    for name in TopologicalSorter({n: node.needs for n, node in nodes.items()}).static_order():
        cells[name] = nodes[name].make({need: done[need] for need in nodes[name].needs})
        hashes = {"data": "d", "model": "m", "maps": name}
        done[name] = CellResult(name, "any", {}, (), hashes=hashes)
    return cells


def test_other_tracks_change_no_cell_of_the_first(plain):
    before, after = _specs(plain), _specs(replace(plain, variants=VARIANTS))
    assert all(after[name].id == cell.id for name, cell in before.items())
    assert len({cell.id for cell in after.values()}) == len(after) > len(before)


def test_specifications_of_the_first_track_are_what_they_were(plain):
    # Finished runs name their cells by these.
    cells = _specs(plain)
    assert set(cells["maps of gradient"].spec) == {
        *("data", "data_hash", "model", "base", "base_hash", "method", "parameters"),
        *("cuts", "tie_seed"),
    }
    assert set(cells["gradient, roar 30 %, seed 0"].spec) == {
        *("data", "data_hash", "model", "recipe", "seed", "method", "parameters"),
        *("maps", "maps_hash", "cuts", "mode", "fraction", "fill", "dual"),
    }


def test_every_track_has_its_trainings(run):
    kinds = {}
    for name, result in run.results.items():
        kinds.setdefault((name.partition("[")[2], result.kind), []).append(name)
    count = {key: len(names) for key, names in kinds.items()}
    # 0.3 and 0.6 have no duals: 3 methods x 2 modes x 2 fractions.
    for variant in ("", "fill noisy-linear]", "unit element]"):
        assert count[variant, "retrain"] == 12
    # Only the gradient explains a class: the others' masks are those they were.
    crossfit = f"{CROSSFIT.title}]"
    assert count[crossfit, "same"] == 8
    assert count[crossfit, "retrain"] == 4
    # ROAR alone; a map anew at each fraction after the first; random never asks the network.
    assert count["recursive]", "retrain"] == 2 * 2
    assert count["recursive]", "same"] == 2
    assert count["recursive]", "maps"] == 2
    assert count["", "fold"] == 2


def test_records_say_their_track(run):
    expected = {
        ("mean", "pixel", "self", False),
        ("noisy-linear", "pixel", "self", False),
        ("mean", "element", "self", False),
        ("mean", "pixel", "crossfit-2", False),
        ("mean", "pixel", "self", True),
    }
    found = set()
    for name, result in run.results.items():
        for record in result.records:
            of = (record.fill, record.mask_unit, record.target_from, record.recursive)
            found.add(of)
            if "[" not in name:
                assert of == ("mean", "pixel", "self", False)
    assert found == expected


def test_all_tracks_train_from_one_start_in_one_order(run):
    trained = [r for r in run.results.values() if r.kind in ("base", "retrain", "same")]
    assert len(trained) > 50
    assert len({result.hashes["init"] for result in trained}) == 1
    assert len({result.hashes["order"] for result in trained}) == 1


@pytest.mark.parametrize("mode", ["roar", "kar"])
def test_the_noisy_linear_track_trains_on_images_filled_beforehand(run, mode):
    dataset = _dataset(run)
    masking = Masking(mode, 0.6, FRACTIONS)
    kept = masking.kept(_levels(run, "maps of gradient", "train"))
    images = noisy_linear(dataset.train.images, kept, np.arange(64)).astype(np.float16)
    network = build_network("resnet9", 8, 0, size=(16, 16))
    view = InputView(images, dataset.mean, dataset.std)
    training = train(network, view, dataset.train.labels, Recipe(epochs=1, batch_size=16), 0)
    result = run.results[_tagged(f"gradient, {mode} 60 %, seed 0", NOISY)]
    assert training.model_hash == result.hashes["model"]
    test_kept = masking.kept(_levels(run, "maps of gradient", "test"))
    filled = noisy_linear(dataset.test.images, test_kept, 64 + np.arange(32)).astype(np.float16)
    answers = predictions(network, InputView(filled, dataset.mean, dataset.std))
    correct = unpack_bits(result.correct, result.images)
    np.testing.assert_array_equal(answers == dataset.test.labels, correct)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_elements_are_ranked_over_all_channels(run, fraction):
    for method in ("gradient", "smoe-linear", "random"):
        name = _tagged(f"maps of {method}", ELEMENT)
        levels = _levels(run, name, "test")
        assert levels.shape == (32, 16, 48)
        removed = ~Masking("roar", fraction, FRACTIONS).kept(levels).reshape(32, 16, 16, 3)
        assert removed.sum((1, 2, 3)).tolist() == [pixels_at(fraction, 768)] * 32
        whole = (removed.all(-1) | ~removed.any(-1)).mean()
        # A map that is one for all channels ties them: they fall together but at the cut.
        assert whole > 0.98 if method == "smoe-linear" else whole < 0.7


def test_element_masks_of_the_gradient_are_those_of_a_sort_over_channels(run):
    dataset = _dataset(run)
    network = build_network("resnet9", 8, 1, size=(16, 16)).eval()
    base = run.results["unmasked, seed 0"].id
    network.load_state_dict(run.store.load_model(base))
    predicted = np.load(run.store.predictions(base))["test"]
    inputs = InputView(dataset.test.images, dataset.mean, dataset.std)(np.arange(32)).contiguous()
    inputs.requires_grad_()
    network(inputs)[torch.arange(32), torch.from_numpy(predicted)].sum().backward()
    gradient = inputs.grad.abs().permute(0, 2, 3, 1).reshape(32, -1).numpy()
    cut = np.sort(gradient, axis=1)[:, -pixels_at(0.3, 768), None]
    levels = _levels(run, _tagged("maps of gradient", ELEMENT), "test").reshape(32, -1)
    assert ((levels == 0) == (gradient >= cut)).mean() > 0.999  # single elements may swap


def test_crossfitted_targets_are_of_networks_that_never_saw_the_image(run):
    dataset = _dataset(run)
    fold = fold_of(64, 2, 0)
    images = InputView(dataset.train.images, dataset.mean, dataset.std)
    targets = np.empty(64, np.int64)
    for left_out in range(2):
        inside = np.flatnonzero(fold != left_out)
        network = build_network("resnet9", 8, 0, size=(16, 16))
        recipe = Recipe(epochs=1, batch_size=16)
        train(network, SubsetView(images, inside), dataset.train.labels[inside], recipe, 0)
        answers = predictions(network, images)
        targets[fold == left_out] = answers[fold == left_out]
    network.load_state_dict(run.store.load_model(run.results["unmasked, seed 0"].id))
    network.eval()
    inputs = images(np.arange(64)).contiguous().requires_grad_()
    network(inputs)[torch.arange(64), torch.from_numpy(targets)].sum().backward()
    expected = saliency_levels(inputs.grad.abs().sum(1).numpy(), FRACTIONS, np.arange(64))
    kept = _levels(run, _tagged("maps of gradient", CROSSFIT), "train")
    assert (kept == expected).mean() > 0.99
    # The class of a test image is the explained network's own, in every variant.
    before = _levels(run, "maps of gradient", "test")
    after = _levels(run, _tagged("maps of gradient", CROSSFIT), "test")
    np.testing.assert_array_equal(before, after)
    assert (_levels(run, "maps of gradient", "train") != kept).any()


def test_what_is_taken_over_says_so_and_is_the_first_track_s(run):
    before = run.results["smoe-linear, kar 60 %, seed 0"]
    after = run.results[_tagged("smoe-linear, kar 60 %, seed 0", CROSSFIT)]
    (record,) = after.records
    assert record.value == before.records[0].value
    assert record.derived_from == "the first track: the same masks"
    assert record.cell == after.id
    assert after.correct == before.correct


def test_recursion_starts_where_the_first_track_does(run):
    # Another cell, trained by itself: the same number to the last bit.
    first = run.results["gradient, roar 30 %, seed 0"]
    again = run.results[_tagged("gradient, roar 30 %, seed 0", RECURSIVE)]
    assert again.id != first.id
    assert again.hashes["model"] == first.hashes["model"]
    assert again.correct == first.correct


def test_each_fraction_s_maps_come_from_the_network_retrained_before(run):
    dataset = _dataset(run)
    trained = run.results[_tagged("gradient, roar 30 %, seed 0", RECURSIVE)]
    network = build_network("resnet9", 8, 1, size=(16, 16))
    network.load_state_dict(run.store.load_model(trained.id))
    network.eval()
    first = Masking("roar", 0.3, FRACTIONS).kept(_levels(run, "maps of gradient", "train"))
    plain = InputView(dataset.train.images, dataset.mean, dataset.std)(np.arange(64))
    masked = torch.where(torch.from_numpy(first)[:, None], plain, torch.zeros(()))
    masked = masked.contiguous().requires_grad_()
    logits = network(masked)
    logits[torch.arange(64), logits.argmax(1)].sum().backward()
    gradient = masked.grad.abs().sum(1).numpy()
    name = _tagged("maps of gradient after 30 %, seed 0", RECURSIVE)
    removed = _levels(run, name, "train") == 0
    assert removed.sum((1, 2)).tolist() == [pixels_at(0.6, 256)] * 64
    assert removed[~first].all()
    # Of the rest, the most salient; single pixels may swap by rounding.
    rest = np.where(first, gradient, np.inf).reshape(64, -1)
    cut = np.sort(rest, axis=1)[:, -pixels_at(0.6, 256), None]
    assert (removed.reshape(64, -1) == (rest >= cut)).mean() > 0.999


def test_random_is_the_same_recursively(run):
    before = run.results["random, roar 60 %, seed 0"]
    after = run.results[_tagged("random, roar 60 %, seed 0", RECURSIVE)]
    assert after.kind == "same"
    assert [record.mode for record in after.records] == ["roar"]
    assert after.correct == before.correct


def test_going_on_with_one_ranking_takes_what_it_would_have_taken():
    rng = np.random.default_rng(0)
    saliency = rng.integers(0, 9, (5, 8, 8)).astype(float)  # many ties
    index = np.arange(5)
    cuts = (0.1, 0.35, 0.9)
    levels = saliency_levels(saliency, cuts, index)
    for (_, before), (place, cut) in pairwise(enumerate(cuts)):
        removed = ~Masking("roar", before, cuts).kept(levels)
        after = continued_levels(saliency, removed, cut, index)
        np.testing.assert_array_equal(after == 0, levels <= place)


def test_folds_are_balanced_and_depend_on_the_seed():
    assert np.bincount(fold_of(103, 5, 0)).tolist() == [21, 21, 21, 20, 20]
    assert (fold_of(100, 5, 0) != fold_of(100, 5, 1)).any()
    with pytest.raises(ValueError, match=r"1 folds of 10 images: expected 2 or more"):
        fold_of(10, 1, 0)
    with pytest.raises(ValueError, match=r"11 folds of 10 images"):
        fold_of(10, 11, 0)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_a_cell_done_again_gives_the_same(run, tmp_path, variant):
    shutil.copytree(run.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    before = run.results[_tagged("gradient, roar 60 %, seed 0", variant)]
    store.cell(before.id).unlink()
    again = run_cell(run.cells[before.id], store)
    assert again.hashes == before.hashes
    assert again.correct == before.correct


def test_interrupted_maps_of_a_chain_go_on(run, tmp_path):
    shutil.copytree(run.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    before = run.results[_tagged("maps of gradient after 30 %, seed 0", RECURSIVE)]
    store.cell(before.id).unlink()
    shutil.rmtree(store.maps(before.id) / "test.zarr" / "c")
    shard = store.maps(before.id) / "train.zarr" / "c" / "0" / "0" / "0"
    written = shard.stat().st_mtime_ns
    assert run_cell(run.cells[before.id], store).hashes == before.hashes
    assert shard.stat().st_mtime_ns == written


def test_options_make_tracks_that_differ_in_one_thing():
    options = as_variants("noisy-linear,mean", "pixel,element", 3, True)
    assert (options["fill"], options["unit"]) == ("noisy-linear", "pixel")
    assert options["variants"] == (
        Variant("mean", "pixel"),
        Variant("noisy-linear", "element"),
        Variant("noisy-linear", "pixel", "crossfit-3"),
        Variant("noisy-linear", "pixel", recursive=True),
    )
    assert as_variants(None, None, None, False)["variants"] == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("median", None, None, False), "unknown fill 'median'"),
        ((None, "voxel", None, False), "unknown unit 'voxel'"),
        ((None, None, 1, False), r"targets from 'crossfit-1': .*at least 2 folds"),
    ],
)
def test_tracks_that_are_none_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        as_variants(*options)


def test_plans_refuse_tracks_twice_and_recursion_without_roar(plain):
    with pytest.raises(PlanError, match="the variant fill noisy-linear is given twice"):
        replace(plain, variants=(NOISY, NOISY))
    with pytest.raises(PlanError, match="the variant of the protocol is given twice"):
        replace(plain, variants=(Variant(),))
    with pytest.raises(PlanError, match="recursive is a form of ROAR"):
        replace(plain, modes=("kar",), variants=(RECURSIVE,))


def test_methods_with_passes_are_those_that_ask_the_network():
    assert {name for name, entry in METHODS.items() if not entry.passes} == {
        *("random", "random-blobs", "centre", "sobel", "oracle")
    }
