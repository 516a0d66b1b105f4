"""A comparison that measures a frozen network with classes of its own, and retrains nothing."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from comparisons.cells import explained, measures
from comparisons.cells.cell import Cell
from comparisons.engines.engine import execute
from comparisons.engines.select import Engine
from comparisons.graph.nodes import build_nodes
from comparisons.plans.plan import Plan, PlanError
from comparisons.runs.archive import archive_run
from comparisons.runs.compare import run_plan
from evaluation.datasets.dataset import open_staged
from evaluation.networks.build import state_hash
from evaluation.networks.pretrained import Weights
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe
from reports.pages.build import render
from reports.records.reading import read_run

pytestmark = pytest.mark.training

STEPS, OUTPUTS = 4, 12
MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.2, 0.3)
# A network of twelve classes, none of them named, with trained weights that say no normalisation.
SOURCE = """
import torch
from torch import nn

def twelve():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        body = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        more = (nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        head = nn.Linear(16, 12)
        nn.init.normal_(head.weight, std=3.0)
        return nn.Sequential(*body, *more, nn.Flatten(), head)
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    path = tmp_path_factory.mktemp("zoo") / "zoo.py"
    path.write_text(SOURCE)
    return Plan(
        "shapes",
        f"{path}:twelve",
        ("smoe-linear", "gradient", "random"),
        modes=(),
        mask_only=(),
        measures=("insertion-deletion", "road", "weights"),
        measure_images=10,
        measure_steps=STEPS,
        train_images=16,
        test_images=24,
        image_size=16,
        recipe=Recipe(epochs=1),
        weights="as-built",
        weights_normalisation=(MEAN, STD),
    )


@pytest.fixture(scope="module")
def run(plan, inline_executor, tmp_path_factory):
    """The results by node of the plan, and their store."""
    store = Store(tmp_path_factory.mktemp("run"))
    nodes = build_nodes(plan, train_images=16, test_images=24)
    events = list(execute(nodes, store, inline_executor(store)))
    assert [event.error for event in events if event.error] == []
    return store, {event.node.name: event.result for event in events}


def _inputs(store, results) -> torch.Tensor:
    dataset = open_staged(store.data(results["data"].id))
    pixels = dataset.test.images.astype(np.float32) / 255
    normalised = (pixels - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2)


def test_nothing_is_trained_and_no_levels_are_kept(run):
    _, results = run
    assert {result.kind for result in results.values()} == {"data", "pretrained", "measure"}
    assert len(results) == 2 + 3 * 3


def test_the_network_answers_among_its_own_classes(run, plan):
    store, results = run
    network = Weights(plan.model, "as-built", "data").network(None, (16, 16)).eval()
    given = results["given weights"]
    assert given.hashes["model"] == state_hash(network)
    with torch.no_grad():
        answers = network(_inputs(store, results)).argmax(1).numpy()
    with np.load(store.predictions(given.id)) as predicted:
        np.testing.assert_array_equal(predicted["test"], answers)
    # Its classes have no names: nothing is right or wrong.
    assert given.records == ()
    assert not given.images
    metrics = {record.metric for record in results["road of random, seed 0"].records}
    assert metrics == {"deletion_area_noisy_linear", "insertion_area_noisy_linear"}


def test_areas_are_those_of_a_slow_rewrite(run, plan):
    store, results = run
    network = Weights(plan.model, "as-built", "data").network(None, (16, 16)).eval()
    inputs = _inputs(store, results)
    history = results["insertion-deletion of gradient, seed 0"].history
    assert len(history) == 10
    for entry in history[:3]:
        image = inputs[[entry["image"]]].requires_grad_()
        logits = network(image)
        target = int(logits.argmax())
        logits[0, target].backward()
        saliency = image.grad.abs().sum(1).flatten()
        for order, metric in ((True, "deletion_area"), (False, "insertion_area")):
            ranked = saliency.argsort(descending=order)
            heights = []
            for step in range(STEPS + 1):
                shown = image.detach().clone().flatten(2)
                shown[:, :, ranked[: 256 * step // STEPS]] = 0
                with torch.no_grad():
                    answer = network(shown.reshape(1, 3, 16, 16)).softmax(1)
                heights.append(float(answer[0, target]))
            area = (sum(heights) - (heights[0] + heights[-1]) / 2) / STEPS
            assert entry[metric] == pytest.approx(area, abs=2e-3)


def test_few_images_at_a_time_give_the_same_numbers(run, monkeypatch):
    store, results = run
    whole = results["insertion-deletion of smoe-linear, seed 0"]
    monkeypatch.setattr(measures, "_PIXELS_AT_ONCE", 3 * 256)
    parts = measures.take_measure(Cell("measure", whole.spec), store, "cpu")
    assert [each["image"] for each in parts["history"]] == [each["image"] for each in whole.history]
    for part, entry in zip(parts["history"], whole.history, strict=True):
        assert part == pytest.approx(entry, abs=1e-5)


def test_known_classes_are_places_among_the_network_s(run, monkeypatch):
    store, results = run
    dataset = open_staged(store.data(results["data"].id))
    places = tuple(range(11, 3, -1))
    monkeypatch.setattr(explained, "class_places", lambda *_: places)
    spec = results["given weights"].spec
    labels = explained.known_labels(torch.nn.Identity(), spec, dataset)
    np.testing.assert_array_equal(labels, np.array(places)[dataset.test.labels])
    trained = {name: value for name, value in spec.items() if name != "classes"}
    same = explained.known_labels(torch.nn.Identity(), trained, dataset)
    np.testing.assert_array_equal(same, dataset.test.labels)


def test_the_command_makes_a_page_and_an_archive(plan, tmp_path):
    small = replace(plan, measures=("insertion-deletion",), measure_images=8)
    console = Console(file=StringIO(), width=500)
    page = run_plan(small, tmp_path / "run", engine=Engine(workers=1), command="", console=console)
    said = console.file.getvalue()
    assert "Plan: 0 trainings, " in said
    assert "its accuracy, and that of ROAD, are not measured" in said
    html = page.read_text()
    assert "Maps explain the class that it predicts among all of its classes" in html
    assert "ROAR and KAR curves" not in html
    assert "steps of 25 %" in html
    archived = archive_run(tmp_path / "run", tmp_path / "kept")
    assert archived.left == 0
    kept = read_run(tmp_path / "kept")
    assert kept.measures_alone
    assert "<h1>2 methods without retraining: shapes" in render(kept)


def test_a_run_of_one_measure_is_measured_whichever_it_is(plan, tmp_path):
    """Average drop alone is a score; weights alone are none, and nothing is called missing."""
    drops = replace(plan, measures=("average-drop",), measure_images=8)
    run_plan(drops, tmp_path / "drops", engine=Engine(workers=1), command="", console=Console())
    run = read_run(tmp_path / "drops")
    (cell,) = [cell for cell in run.cells("measure") if cell.spec["method"] == "smoe-linear"]
    mean = np.mean([image["average_drop"] for image in cell.history])
    html = render(run)
    assert "Not measured yet" not in html
    assert "average drop, with its sign turned" in html
    assert f"{-mean:.3f}".replace("-", "\u2212") in html
    weights = replace(plan, measures=("weights",), measure_images=8)
    run_plan(weights, tmp_path / "weights", engine=Engine(workers=1), command="", console=Console())
    html = render(read_run(tmp_path / "weights"))
    assert "Not measured yet" not in html
    assert "No two methods have one of these scores: insertion less deletion;" in html


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measures": ()}, "no modes and no measures: expected some of roar, kar"),
        ({"mask_only": (("roar", 0.5),)}, "trainings on masks alone belong to retraining"),
        ({"measure_steps": 7}, "--measure-steps 7: expected an even number of at least 4"),
        ({"measure_steps": 2}, "--measure-steps 2: expected an even number"),
        ({"passes_in": "tvm"}, "passes in 'tvm': expected torch or onnxruntime"),
    ],
)
def test_plans_that_cannot_be_measured_are_refused(plan, changes, message):
    with pytest.raises((PlanError, ValueError), match=message):
        replace(plan, **changes)


def test_a_plan_is_read_back_and_usual_options_are_not_written(plan):
    assert Plan.from_json(plan.to_json()) == plan
    usual = replace(plan, measure_steps=20)
    assert not {"measure_steps", "passes_in"} & usual.to_json().keys()
    assert Plan.from_json(usual.to_json()) == usual


def test_as_built_weights_say_their_normalisation_or_are_refused(plan):
    with pytest.raises(ValueError, match="does not say which normalisation its weights expect"):
        Weights(plan.model, "as-built")
    with pytest.raises(ValueError, match="weights 'as-built' of model 'resnet18' are random"):
        Weights("resnet18", "as-built")
    given = Weights(plan.model, "as-built", given=(MEAN, STD))
    assert given.normalisation == (MEAN, STD)
    assert given.in_spec()["weights_hash"] == state_hash(given.network(None, (16, 16)))
