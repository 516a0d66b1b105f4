"""Measures on a fine-tuned network, as cells of a run: one fine-tuning serves every method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from comparisons.cells.run import run_cell
from comparisons.engines.engine import execute
from comparisons.estimates.cost import cost_of
from comparisons.estimates.throughput import Throughput
from comparisons.graph.nodes import build_nodes
from comparisons.measures import MEASURES
from comparisons.methods import METHODS
from comparisons.methods.examples import example_batch
from comparisons.methods.work import Rates
from evaluation.datasets.dataset import open_staged
from evaluation.datasets.load import Extent
from evaluation.metrics.single_deletion import deletion_drops, single_deletion_score
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.store import Store

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

MEASURED = ("f-fidelity", "idsds")
RATES = Throughput(Rates(100.0, 300.0, 150.0), "given", "cpu")
EXTENT = Extent("shapes", 8, 64, 32, (16, 16), True)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, make_tiny_plan, inline_executor):
    plan = replace(
        make_tiny_plan("oracle", "gradient"),
        measures=MEASURED,
        measure_images=8,
        modes=("roar",),
        mask_only=(),
    )
    store = Store(tmp_path_factory.mktemp("tuned"))
    nodes = build_nodes(plan, train_images=64, test_images=32)
    events = list(execute(nodes, store, inline_executor(store)))
    return plan, store, {event.node.name: event.result for event in events if event.result}, nodes


def _network(store, result):
    network = build_network("resnet9", 8, 3, size=(16, 16))
    network.load_state_dict(store.load_model(result.id))
    return network.eval()


def test_one_fine_tuning_of_the_explained_network_serves_all_methods(tuned):
    _, store, results, _ = tuned
    for measure in MEASURED:
        cell = results[f"fine-tuned for {measure}, seed 0"]
        assert cell.spec["base"] == results["unmasked, seed 0"].id
        assert cell.spec["recipe"]["learning_rate"] == pytest.approx(0.01)
        assert cell.spec["removal"] == MEASURES[measure].removal
        assert [r.metric for r in cell.records] == [MEASURES[measure].tuned_accuracy]
        network = _network(store, cell)
        assert state_hash(network) != state_hash(_network(store, results["unmasked, seed 0"]))
        for method in ("oracle", "gradient"):
            measured = results[f"{measure} of {method}, seed 0"]
            assert measured.spec["fine_tuned"] == cell.id
            assert len(measured.history) == 8
    kinds = [result.kind for result in results.values()]
    assert kinds.count("fine_tuned") == 2
    assert kinds.count("measure") == 4


def test_the_network_and_its_answers_are_those_of_a_rewrite(tuned):
    """IDSDS of the gradient once more, by hand, from the kept weights."""
    _, store, results, _ = tuned
    cell = results["idsds of gradient, seed 0"]
    dataset = open_staged(store.data(results["data"].id))
    network = _network(store, results["fine-tuned for idsds, seed 0"])
    with np.load(store.predictions(results["unmasked, seed 0"].id)) as predicted:
        targets = predicted["test"]
    chosen = np.array([int(entry["image"]) for entry in cell.history])
    batch = example_batch(dataset, "test", targets, chosen)
    maps = METHODS["gradient"].prepare(network)(batch).detach().numpy()
    drops = deletion_drops(network, batch.inputs, batch.target, 4)
    expected = single_deletion_score(maps, drops)
    np.testing.assert_allclose([entry["idsds"] for entry in cell.history], expected, atol=0.02)
    assert cell.records[0].value == pytest.approx(expected.mean(), abs=0.02)


def test_fine_tuned_weights_that_are_gone_are_made_again(tuned):
    _, store, results, nodes = tuned
    cell = results["fine-tuned for f-fidelity, seed 0"]
    measured = results["f-fidelity of oracle, seed 0"]
    before = store.load_model(cell.id)
    store.model(cell.id).unlink()
    path = store.cell(measured.id)
    kept = path.read_bytes()
    path.unlink()
    node = next(node for node in nodes if node.name == "f-fidelity of oracle, seed 0")
    again = run_cell(node.make(results), store)
    assert [r.value for r in again.records] == [r.value for r in measured.records]
    for name, tensor in store.load_model(cell.id).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    path.write_bytes(kept)


def test_the_estimate_counts_the_fine_tunings_and_their_passes(tuned):
    plan, *_ = tuned

    def lines(measures):
        cost = cost_of(replace(plan, measures=measures), EXTENT, (16, 16), RATES, workers=1)
        return {line.name: line for line in cost.lines}

    with_both, without = lines(MEASURED), lines(())
    assert "fine_tuned" not in without
    line = with_both["fine_tuned"]
    # A quarter of one epoch is one epoch; a test each.
    assert (line.cells, line.trainings) == (2, 2)
    assert (line.work.training, line.work.forward) == (2 * 64, 2 * 32)
    # F-Fidelity: the whole image, 5 sizes, 5 draws, 2 parts; IDSDS: the whole one and 16 patches.
    more = with_both["oracle"].work.forward - without["oracle"].work.forward
    assert more == 8 * (1 + 50 + 17)
