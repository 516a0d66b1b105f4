"""Measures without retraining, for every registered method and as cells of a run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from comparisons.cells.measures import chosen_images
from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.graph.nodes import build_nodes
from comparisons.measures import MEASURES, Sample, resolve_measures
from comparisons.measures import maps as measures_of_maps
from comparisons.methods import METHODS
from comparisons.methods.examples import example_batch
from evaluation.datasets.dataset import open_staged
from evaluation.datasets.load import Request, load_dataset
from evaluation.metrics.randomisation import permuted_labels
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.records import METRICS
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

# They never look at the network: nothing done to it can change them.
BLIND = ("random", "random-blobs", "centre", "sobel", "oracle")
SANITY = ("weights_spearman", "weights_ssim", "labels_spearman", "labels_ssim")


def _network(seed: int) -> torch.nn.Module:
    return build_network("resnet9", 8, seed, size=(16, 16)).eval()


@pytest.fixture(scope="module")
def images():
    return load_dataset("shapes", Request(train_images=16, test_images=8, image_size=16))


@pytest.fixture
def sample_of(images):
    untrained = _network(1)

    def make(method: str) -> Sample:
        chosen = np.arange(3)
        return Sample(
            prepare=METHODS[method].prepare,
            network=_network(0),
            untrained=lambda: untrained,
            permuted=_network(2),
            batch=example_batch(images, "test", np.asarray(images.test.labels), chosen),
            labels=images.test.labels[chosen],
            pixels=images.test.images[chosen],
            mean=images.mean,
            std=images.std,
        )

    return make


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_measured_and_its_network_stays(name, sample_of):
    sample = sample_of(name)
    networks = (sample.network, sample.untrained(), sample.permuted)
    before = [state_hash(network) for network in networks]
    found = {}
    for measure in ("localisation", "labels"):
        for finding in MEASURES[measure].take(sample):
            assert finding.values.shape == (3,)
            assert np.isfinite(finding.values).all()
            found[finding.metric] = finding.values
    weights = list(MEASURES["weights"].take(sample))
    for finding in weights:
        assert finding.values.shape == (3,)
        assert np.isfinite(finding.values).all()
    # The planted truth: what does not see the network is not moved by what is done to it.
    blind = [np.abs(finding.values - 1).max() < 1e-9 for finding in weights]
    assert all(blind) if name in BLIND else not all(blind)
    if name in BLIND:
        assert found["labels_spearman"].tolist() == pytest.approx([1.0] * 3)
        assert found["labels_ssim"].tolist() == pytest.approx([1.0] * 3)
    if name == "oracle":
        assert found["mass_in_object"].tolist() == [1.0] * 3
    assert [state_hash(network) for network in networks] == before
    for network in networks:
        assert not network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not any(module._forward_hooks for module in network.modules())


def test_activations_without_class_weights_are_not_moved_by_the_classifier(sample_of):
    """SMOE reads activations alone: the head's weights are nothing to it; a gradient's are."""

    def after_the_head(method):
        findings = MEASURES["weights"].take(sample_of(method))
        return next(f for f in findings if (f.metric, f.layer) == ("weights_spearman", "head"))

    assert after_the_head("smoe-linear").values.tolist() == pytest.approx([1.0] * 3)
    assert after_the_head("gradient").values.max() < 0.9


def test_road_fills_as_the_retraining_does(sample_of, images):
    sample = sample_of("gradient")
    kept = np.zeros((3, 16, 16), bool)
    kept[:, ::2] = True
    shown = sample.with_noisy_linear()(kept)
    # Kept pixels are those of the batch; removed ones are near their neighbours, not at the mean.
    mask = torch.from_numpy(kept)[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(shown[mask], sample.batch.inputs[mask], rtol=1e-5, atol=1e-5)
    below = torch.from_numpy(np.roll(kept, 1, axis=1))[:, None].expand(-1, 3, -1, -1)
    neighbours = (torch.roll(shown, 1, 2) + torch.roll(shown, -1, 2)) / 2
    inner = below.clone()
    inner[:, :, [0, 15]] = False
    assert (shown - neighbours)[inner].abs().median() < sample.batch.inputs[inner].abs().median()


@pytest.fixture(scope="module")
def measured(tmp_path_factory, make_tiny_plan, inline_executor):
    """Every measure of three methods at two seeds, on the tiny plan."""
    plan = replace(
        make_tiny_plan("oracle", "smoe-linear"),
        measures=tuple(MEASURES),
        measure_images=12,
        seeds=(0, 1),
        modes=("roar",),
        mask_only=(),
    )
    store = Store(tmp_path_factory.mktemp("measured"))
    executor = inline_executor(store)
    nodes = build_nodes(plan, train_images=64, test_images=32)
    events = list(execute(nodes, store, executor))
    return plan, store, {event.node.name: event.result for event in events if event.result}, nodes


def test_each_measure_and_seed_is_a_cell_with_its_records(measured):
    _, _, results, nodes = measured
    assert {node.name for node in nodes} == set(results)
    cells = [result for result in results.values() if result.kind == "measure"]
    assert len(cells) == 2 * len(MEASURES) * 2
    for cell in cells:
        assert len(cell.history) == 12
        assert {record.seed for record in cell.records} == {cell.spec["seed"]}
        for record in cell.records:
            key = record.metric if record.layer is None else f"{record.metric} {record.layer}"
            values = [entry[key] for entry in cell.history]
            assert record.value == pytest.approx(np.mean(values))
            assert record.unit == METRICS[record.metric].unit
            assert math.isfinite(record.value)
    images = {tuple(entry["image"] for entry in cell.history) for cell in cells}
    assert len(images) == 1


def test_every_seed_explains_its_own_network(measured):
    _, _, results, _ = measured
    first, second = (results[f"descriptions of smoe-linear, seed {seed}"] for seed in (0, 1))
    assert first.spec["base"] == results["unmasked, seed 0"].id
    assert second.spec["base"] == results["unmasked, seed 1"].id
    assert [r.value for r in first.records] != [r.value for r in second.records]


def test_planted_truths_of_a_run(measured):
    _, _, results, _ = measured
    for seed in (0, 1):
        for measure in ("weights", "labels"):
            for record in results[f"{measure} of oracle, seed {seed}"].records:
                assert record.metric in SANITY
                assert record.value == pytest.approx(1.0)
    assert results["localisation of oracle, seed 0"].records[0].value == 1.0
    moved = [r.value for r in results["weights of smoe-linear, seed 0"].records]
    assert min(moved) < 0.9


def test_weights_of_the_run_are_those_explained_and_stay(measured):
    """A cell's numbers are those of the kept weights, taken again by hand."""
    _, store, results, _ = measured
    cell = results["labels of smoe-linear, seed 0"]
    dataset = open_staged(store.data(results["data"].id))
    base, permuted = results["unmasked, seed 0"], results["labels permuted, seed 0"]
    with np.load(store.predictions(base.id)) as predicted:
        targets = predicted["test"]
    chosen = np.array([int(entry["image"]) for entry in cell.history])
    batch = example_batch(dataset, "test", targets, chosen)
    maps = []
    for result in (base, permuted):
        network = _network(7)
        network.load_state_dict(store.load_model(result.id))
        assert state_hash(network) == result.hashes["model"]
        maps.append(METHODS["smoe-linear"].prepare(network)(batch).detach().numpy())
    for entry, first, second in zip(cell.history, *maps, strict=True):
        expected = stats.spearmanr(first.ravel(), second.ravel()).statistic
        assert entry["labels_spearman"] == pytest.approx(expected, abs=1e-3)


def test_the_network_on_permuted_labels_learned_those(measured):
    _, store, results, _ = measured
    cell, base = results["labels permuted, seed 0"], results["unmasked, seed 0"]
    labels = open_staged(store.data(results["data"].id)).train.labels
    assert (permuted_labels(np.asarray(labels), 0) != labels).any()
    # From the same start, in the same order, to other weights.
    assert cell.hashes["init"] == base.hashes["init"]
    assert cell.hashes["order"] == base.hashes["order"]
    assert cell.hashes["model"] != base.hashes["model"]
    assert [r.metric for r in cell.records] == ["permuted_train_accuracy", "data_wait_share"]
    assert cell.records[0].value == cell.history[-1]["accuracy"]


def test_a_finished_measure_is_not_taken_again(measured, monkeypatch):
    _, store, results, nodes = measured
    monkeypatch.setattr(measures_of_maps, "rank_correlation", None)
    done = dict(results)
    for node in nodes:
        if node.stage == "measure":
            assert run_cell(node.make(done), store).id == results[node.name].id


def test_images_are_balanced_and_the_same_in_every_run():
    labels = np.repeat(np.arange(4), 50)
    chosen = chosen_images(labels, 16)
    assert np.bincount(labels[chosen]).tolist() == [4, 4, 4, 4]
    assert chosen.tolist() == chosen_images(labels, 16).tolist()
    # Fewer images than classes: some of them, each once.
    assert len(set(chosen_images(np.arange(100), 7).tolist())) == 7
    assert chosen_images(labels, 1000).tolist() == list(range(200))


def test_measures_are_named_all_or_none():
    everything = resolve_measures(None, has_object_masks=True)
    assert everything == resolve_measures("all", has_object_masks=True) == tuple(MEASURES)
    assert resolve_measures("none", has_object_masks=True) == ()
    without = resolve_measures("all", has_object_masks=False)
    assert set(everything) - set(without) == {"localisation"}
    with pytest.raises(ValueError, match=r"unknown measure 'rod': .* insertion-deletion"):
        resolve_measures("rod", has_object_masks=True)
    with pytest.raises(ValueError, match="needs the true object"):
        resolve_measures("localisation", has_object_masks=False)
    with pytest.raises(ValueError, match="no measures given"):
        resolve_measures(",", has_object_masks=True)


def test_a_map_with_nan_is_refused(sample_of):
    def prepare(model):
        return lambda batch: torch.full((len(batch.inputs), 16, 16), float("nan"))

    with pytest.raises(ValueError, match="holds NaN"):
        list(MEASURES["descriptions"].take(replace(sample_of("random"), prepare=prepare)))
