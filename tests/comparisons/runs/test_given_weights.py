"""A comparison whose maps explain a network that was trained elsewhere."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from comparisons.engines.engine import execute
from comparisons.engines.select import Engine
from comparisons.graph.nodes import build_nodes
from comparisons.measures import MEASURES
from comparisons.plans.plan import PlanError
from comparisons.runs.compare import run_plan
from evaluation.datasets.dataset import open_staged
from evaluation.masking.level_files import Levels
from evaluation.masking.levels import saliency_levels
from evaluation.networks.build import build_network, state_hash
from evaluation.storage.records import unpack_bits
from evaluation.storage.store import Store
from reports.records.estimates import unmasked
from reports.records.reading import read_run

pytestmark = pytest.mark.training

SIZE = (16, 16)
# Of ResNet-18's published weights, so of a file of its weights too.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A network whose answers are of all classes, and the file of its weights."""
    network = build_network("resnet18", 8, 11, size=SIZE)
    torch.nn.init.normal_(network.fc.weight, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("elsewhere") / "resnet18.pt"
    torch.save(network.state_dict(), path)
    return network.eval(), path


@pytest.fixture(scope="module")
def run(elsewhere, make_tiny_plan, inline_executor, tmp_path_factory):
    """Results by node of the same plan with the weights given, and with those of its first seed."""
    plain = replace(make_tiny_plan("gradient"), model="resnet18", modes=("roar",), mask_only=())
    plain = replace(plain, train_images=32, test_images=32)
    given = replace(plain, weights=str(elsewhere[1]), seeds=(0, 1), measures=("localisation",))
    found = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, plan in (("given", given), ("plain", plain)):
        store = Store(tmp_path_factory.mktemp(name))
        nodes = build_nodes(plan, train_images=32, test_images=32)
        trained = [node for node in nodes if node.stage != "profile"]  # which takes long
        events = list(execute(trained, store, inline_executor(store)))
        results = {event.node.name: event.result for event in events}
        specs = {node.name: node.make(results).spec for node in nodes}
        found[name] = store, results, specs
    torch.set_num_threads(threads)
    return found


def _inputs(dataset, split: str) -> torch.Tensor:
    """Images as the network expects them, by hand."""
    pixels = dataset.split(split).images.astype(np.float32) / 255
    normalised = (pixels - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2)


def test_the_given_network_is_tested_in_its_own_normalisation(run, elsewhere):
    store, results, _ = run["given"]
    result, network = results["given weights"], elsewhere[0]
    dataset = open_staged(store.data(results["data"].id))
    with torch.no_grad():
        answers = network(_inputs(dataset, "test")).argmax(1).numpy()
        in_data_s = (_inputs(dataset, "test") * 0.5).sub(0.2)
        others = network(in_data_s).argmax(1).numpy()
    assert (answers != others).any()  # the normalisation matters to it
    correct = unpack_bits(result.correct, result.images)
    np.testing.assert_array_equal(correct, answers == dataset.test.labels)
    (record,) = result.records
    assert (record.metric, record.value) == ("pretrained_accuracy", correct.mean())
    assert result.hashes["model"] == state_hash(network)
    with np.load(store.predictions(result.id)) as predicted:
        np.testing.assert_array_equal(predicted["test"], answers)


def test_maps_are_gradients_of_the_given_network(run, elsewhere):
    store, results, _ = run["given"]
    dataset = open_staged(store.data(results["data"].id))
    inputs = _inputs(dataset, "test").requires_grad_()
    logits = elsewhere[0](inputs)
    logits.gather(1, logits.argmax(1, keepdim=True)).sum().backward()
    saliency = inputs.grad.abs().sum(1).numpy()
    expected = saliency_levels(saliency, (0.5,), dataset.first_index("test") + np.arange(32))
    maps = results["maps of gradient"]
    levels = Levels(store.maps(maps.id) / "test.zarr").read(0, 32)
    assert (levels == expected).mean() > 0.99  # but for rounding at the median
    assert maps.spec["base"] == results["given weights"].id
    plain_maps = run["plain"][1]["maps of gradient"]
    assert maps.hashes["maps"] != plain_maps.hashes["maps"]


def test_retraining_and_its_reference_know_nothing_of_the_weights(run):
    (_, given, specs), plain = run["given"], run["plain"][1]
    assert given["unmasked, seed 0"].id == plain["unmasked, seed 0"].id
    assert given["unmasked, seed 0"].hashes == plain["unmasked, seed 0"].hashes
    name = "gradient, roar 50 %, seed 0"
    for what in ("init", "order"):
        assert given[name].hashes[what] == plain[name].hashes[what]
        assert given[name].hashes[what] == given["unmasked, seed 0"].hashes[what]
    assert given[name].hashes["model"] != plain[name].hashes["model"]
    # One network is explained, whatever the seeds of retraining.
    assert [each for each in given if each.startswith("localisation")] == [
        "localisation of gradient, seed 0"
    ]
    for name in ("cost of gradient", "localisation of gradient, seed 0"):
        assert specs[name]["base"] == given["given weights"].id


def test_the_page_s_reference_is_the_one_that_was_trained(run):
    store, results, _ = run["given"]
    read = read_run(store.root)
    trained = [results[f"unmasked, seed {seed}"] for seed in (0, 1)]
    values = [unpack_bits(result.correct, result.images).mean() for result in trained]
    assert unmasked(read.records).mean == pytest.approx(np.mean(values))
    assert not [warning for warning in read.warnings if "cells measured" in warning]


def test_what_cannot_be_explained_is_refused_before_a_run(elsewhere, make_tiny_plan, tmp_path):
    plan = replace(make_tiny_plan("gradient"), model="resnet18")
    needs = next(name for name, entry in MEASURES.items() if entry.needs_permuted)
    with pytest.raises(PlanError, match=f"measure '{needs}' .* its weights are given"):
        replace(plan, weights=str(elsewhere[1]), measures=(needs,))
    published = replace(plan, weights="torchvision:DEFAULT")
    console = Console(file=StringIO())
    with pytest.raises(ValueError, match="are for 1000 classes, the images have 8"):
        run_plan(published, tmp_path / "run", engine=Engine(workers=1), command="", console=console)
    assert not (tmp_path / "run" / "plan.json").exists()
