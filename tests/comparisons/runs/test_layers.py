"""A run inside the network: identical fine-tuning, what it resumes, and the weights it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from comparisons.__main__ import app
from comparisons.cells.run import run_cell
from comparisons.engines import select
from comparisons.engines.engine import execute
from comparisons.engines.select import Engine
from comparisons.graph.layers import build_layer_nodes, probe_layers
from comparisons.graph.specs import data_cell
from comparisons.plans.layers import LayersPlan, tuning_recipe
from comparisons.plans.plan import PlanError
from comparisons.runs import prior
from comparisons.runs.layers import run_layers
from comparisons.runs.prior import write_prior
from comparisons.runs.session import RunError
from evaluation.datasets.dataset import choose_balanced, open_staged
from evaluation.masking.levels import saliency_levels
from evaluation.masking.views import InputView
from evaluation.networks.build import build_network
from evaluation.storage.hashes import content_hash
from evaluation.storage.records import unpack_bits
from evaluation.storage.store import Store
from evaluation.training.retraining import Recipe
from fastsal import SMOEScale, find_scales
from fastsal.statistics.registry import get_statistic

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[3]
LAYERS = ("stage1.0", "stage2.0", "stage3.0", "stage3")
TUNED = 48


def tiny_layers_plan(*statistics: str, **options) -> LayersPlan:
    stated = {
        "seeds": (0, 1),
        "train_images": 64,
        "tuning_images": TUNED,
        "test_images": 32,
        "image_size": 16,
        "base": Recipe(epochs=1, batch_size=16, learning_rate=0.02),
        "tuning": tuning_recipe(epochs=1, batch_size=16),
    }
    stated |= {"data": "shapes", "model": "resnet9", "statistics": statistics}
    return LayersPlan(**(stated | options))


class LayersRun:
    """A run in this process."""

    def __init__(self, plan: LayersPlan, store: Store, executor) -> None:
        self.plan, self.store, self.executor = plan, store, executor
        self.data = run_cell(data_cell(plan), store)
        self.dataset = open_staged(store.data(self.data.id))
        self.layers = probe_layers(plan, self.dataset)
        self.nodes = build_layer_nodes(plan, self.layers, self.dataset)
        self.events = list(execute(self.nodes, store, executor))
        self.results = {e.node.name: e.result for e in self.events if e.result is not None}

    def of_kind(self, kind: str) -> list:
        return [result for result in self.results.values() if result.kind == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory, inline_executor) -> LayersRun:
    store = Store(tmp_path_factory.mktemp("layers"))
    return LayersRun(tiny_layers_plan("smoe_scale", "mean"), store, inline_executor(store))


def test_every_statistic_scale_mode_and_seed_is_fine_tuned_once(run):
    assert not [event for event in run.events if event.kind == "failed"]
    places = [
        (r.spec["method"], r.spec["layer"], r.spec["mode"], r.spec["seed"])
        for r in run.of_kind("tune")
    ]
    assert sorted(places) == sorted(
        (method, layer, mode, seed)
        for method in ("random", "smoe_scale", "mean")
        for layer in LAYERS
        for mode in ("kar", "roar")
        for seed in (0, 1)
    )
    for result in run.of_kind("tune"):
        record, waited = result.records
        assert (waited.metric, waited.layer) == ("data_wait_share", record.layer)
        assert record.layer == result.spec["layer"]
        assert record.fraction == {"kar": 0.025, "roar": 0.1}[record.mode]
        assert record.value == unpack_bits(result.correct, result.images).mean()
        assert result.images == 32


def test_fine_tunings_of_a_scale_and_seed_share_start_order_and_what_comes_before(run):
    shared: dict = {}
    for result in run.of_kind("tune"):
        place = (result.spec["seed"], result.spec["layer"])
        shared.setdefault(place, set()).add(
            tuple(result.hashes[key] for key in ("init", "order", "before"))
        )
    assert len(shared) == 8
    assert all(len(hashes) == 1 for hashes in shared.values())
    # Another seed is another network and another order.
    for layer in LAYERS:
        ((first,), (second,)) = (shared[seed, layer] for seed in (0, 1))
        assert all(a != b for a, b in zip(first, second, strict=True))


def _cell(run: LayersRun, **wanted):
    (found,) = [
        r for r in run.of_kind("tune") if all(r.spec[key] == value for key, value in wanted.items())
    ]
    return found


@pytest.mark.parametrize(
    ("layer", "mode", "count"), [("stage2.0", "kar", 2), ("stage3.0", "roar", 2)]
)
def test_a_fine_tuning_is_that_of_the_whole_network_with_a_hook(run, layer, mode, count):
    """The slow way: no cut, no cache; the network runs whole, and a hook masks the layer."""
    seed = 1
    base = run.results[f"network, seed {seed}"]
    network = build_network("resnet9", len(run.dataset.classes), 9, size=(16, 16))
    network.load_state_dict(run.store.load_model(base.id))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    scales = find_scales(network.eval(), torch.rand(1, 3, 16, 16))
    module = scales[LAYERS.index(layer)].module
    modules = list(network.modules())
    # In the order in which they run, which for this network is that of its definition.
    order = [part for part in modules if not list(part.children())]
    last = [part for part in module.modules() if not list(part.children())][-1]
    after = order[order.index(last) + 1 :]
    parameters = [p for part in after for p in part.parameters()]

    def mask(index: np.ndarray, activations: torch.Tensor) -> torch.Tensor:
        saliency = get_statistic("smoe_scale")(activations).numpy()
        locations = saliency[0].size
        # The same ranking by the levels that masking the input has: a cut at count locations.
        share = (count if mode == "kar" else locations - count) / locations
        levels = saliency_levels(saliency, (share,), index, seed=0)
        return torch.from_numpy((levels == (0 if mode == "kar" else 1)).astype(np.float32))

    now: dict = {}
    module.register_forward_hook(lambda _, __, out: out * mask(now["index"], out.detach())[:, None])
    labels, chosen = np.asarray(run.dataset.train.labels), _chosen(run)
    view = InputView(run.dataset.train.images, run.dataset.mean, run.dataset.std)
    recipe = run.plan.tuning
    optimizer = torch.optim.SGD(
        parameters,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=3, pct_start=0.1, cycle_momentum=False
    )
    shuffled = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 1])))
    losses = []
    for batch in np.split(shuffled.permutation(TUNED), 3):
        network.eval()
        for part in after:
            part.train()
        now["index"] = chosen[batch]
        logits = network(view(chosen[batch]))
        loss = F.cross_entropy(
            logits, torch.from_numpy(labels[chosen[batch]]), label_smoothing=recipe.label_smoothing
        )
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    state, frozen = network.state_dict(), 0
    names = {id(part): name for name, part in network.named_modules()}
    tuned = {f"{names[id(part)]}." for part in after}
    for name, tensor in before.items():
        if not name.startswith(tuple(tuned)):
            assert torch.equal(state[name], tensor)
            frozen += 1
    assert frozen
    now["index"] = len(labels) + np.arange(32)
    test = InputView(run.dataset.test.images, run.dataset.mean, run.dataset.std)
    with torch.no_grad():
        right = network(test(np.arange(32))).argmax(1).numpy() == run.dataset.test.labels
    cell = _cell(run, method="smoe_scale", layer=layer, mode=mode, seed=seed)
    assert unpack_bits(cell.correct, 32).tolist() == right.tolist()
    assert cell.history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def _chosen(run: LayersRun) -> np.ndarray:
    return choose_balanced(np.asarray(run.dataset.train.labels), TUNED, run.plan.data_seed)


def test_weights_before_the_mask_are_those_of_the_network_and_those_after_are_not(run):
    base = run.results["network, seed 0"]
    state = run.store.load_model(base.id)
    after = {"stage1.0": ("stage1.1", "stage1.2", "stage2", "stage3", "head"), "stage3": ("head",)}
    for layer, parts in after.items():
        before = [t.numpy() for name, t in state.items() if not name.startswith(parts)]
        for result in run.of_kind("tune"):
            if (result.spec["layer"], result.spec["seed"]) == (layer, 0):
                assert result.hashes["before"] == content_hash(*before)
                assert result.hashes["model"] != result.hashes["init"]


def test_a_run_that_was_stopped_goes_on_where_it_was(run, tmp_path, inline_executor):
    class Stops(inline_executor):
        def submit(self, cell):
            if len(self.submitted) == 12:
                raise KeyboardInterrupt
            return super().submit(cell)

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        LayersRun(run.plan, store, Stops(store))
    done = {result.id: store.cell(result.id).stat().st_mtime_ns for result in store.results()}
    assert 12 <= len(done) < len(run.nodes)
    again = LayersRun(run.plan, store, inline_executor(store))
    assert {name: store.cell(name).stat().st_mtime_ns for name in done} == done
    assert {name: r.correct for name, r in again.results.items()} == {
        name: r.correct for name, r in run.results.items()
    }


def test_a_statistic_that_is_added_runs_alone(run, inline_executor):
    executor = inline_executor(run.store)
    more = LayersRun(
        replace(run.plan, statistics=("smoe_scale", "mean", "std")), run.store, executor
    )
    methods = {cell.spec.get("method") for cell in executor.submitted if cell.kind == "tune"}
    assert methods == {"std"}
    assert {cell.kind for cell in executor.submitted} == {"locations", "tune"}
    assert len(more.of_kind("tune")) == 64


def test_weights_of_a_run_are_what_smoe_scale_takes(run, tmp_path):
    path = tmp_path / "prior.json"
    write_prior(path, list(run.store.results()), run.plan, LAYERS)
    content = json.loads(path.read_text())
    accuracy = {
        tuple(r.spec[key] for key in ("method", "mode", "layer", "seed")): r.records[0].value
        for r in run.of_kind("tune")
    }
    expected = [
        max(
            0.0,
            sum(
                accuracy["random", "roar", layer, seed]
                - accuracy["smoe_scale", "roar", layer, seed]
                + accuracy["smoe_scale", "kar", layer, seed]
                - accuracy["random", "kar", layer, seed]
                for seed in (0, 1)
            )
            / 2,
        )
        for layer in LAYERS
    ]
    assert content["weights"] == pytest.approx(expected, abs=1e-6)
    assert content["layers"] == list(LAYERS)
    network = build_network("resnet9", 8, 0, size=(16, 16))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    weighted = SMOEScale(network, weights=path).attribute(images)
    assert torch.equal(weighted, SMOEScale(network, weights=content["weights"]).attribute(images))


def test_a_run_whose_activations_were_removed_goes_on_with_the_same_ones(run, tmp_path):
    shutil.copytree(run.store.root, tmp_path / "copy")
    store = Store(tmp_path / "copy")
    files = {
        path.relative_to(store.root): path.read_bytes()
        for path in (store.root / "activations").rglob("*")
        if path.is_file()
    }
    # Each array and the hashes beside it.
    arrays = {path for path in files if path.suffix == ".npy"}
    assert files.keys() == arrays | {path.with_suffix(".hash") for path in arrays}
    assert store.remove_activations() == sum(len(content) for content in files.values())
    assert not (store.root / "activations").exists()
    cells = {cell.id: cell for cell in run.executor.submitted}
    for method in ("mean", "random"):
        result = _cell(run, method=method, layer="stage3.0", mode="roar", seed=1)
        store.cell(result.id).unlink()
        again = run_cell(cells[result.id], store)
        assert (again.hashes, again.correct) == (result.hashes, result.correct)
        assert [e["loss"] for e in again.history] == [e["loss"] for e in result.history]
    made = {
        path.relative_to(store.root): path.read_bytes()
        for path in (store.root / "activations").rglob("*")
        if path.suffix in (".npy", ".hash")
    }
    assert made.items() <= files.items()
    assert {path.parts[2] for path in made if len(path.parts) > 3} == {"mean", "random"}


def test_no_weights_come_out_where_no_scale_beats_random(run, tmp_path):
    store = Store(tmp_path)
    for result in run.results.values():
        if result.kind == "tune":
            better = result.spec["method"] == "random"
            value = 0.9 if better == (result.spec["mode"] == "kar") else 0.1
            record = replace(result.records[0], value=value)
            store.save_result(replace(result, records=(record,)))
    with pytest.raises(ValueError, match="at no scale is smoe_scale better than random"):
        write_prior(tmp_path / "prior.json", list(store.results()), run.plan, LAYERS)
    assert not (tmp_path / "prior.json").exists()


# Given weights, and the command.


def trained_elsewhere(classes: int) -> nn.Module:
    torch.manual_seed(7)
    return build_network("resnet9", classes, 7, size=(16, 16))


def _started(start: str, model: str, out: Path, executor) -> LayersRun:
    plan = tiny_layers_plan("mean", start=start, model=model, seeds=(0, 1))
    store = Store(out)
    return LayersRun(plan, store, executor(store))


def test_given_weights_serve_all_seeds(tmp_path, inline_executor):
    network = trained_elsewhere(8)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pt")
    run = _started(str(tmp_path / "weights.pt"), "resnet9", tmp_path / "run", inline_executor)
    assert not [event for event in run.events if event.kind == "failed"]
    (given,) = run.of_kind("given")
    state = run.store.load_model(given.id)
    assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())
    view = InputView(run.dataset.test.images, run.dataset.mean, run.dataset.std)
    with torch.no_grad():
        right = network.eval()(view(np.arange(32))).argmax(1).numpy() == run.dataset.test.labels
    assert given.records[0].value == right.mean()
    inits = {(r.spec["layer"], r.hashes["init"]) for r in run.of_kind("tune")}
    assert len(inits) == 4
    assert len({r.hashes["order"] for r in run.of_kind("tune")}) == 2


def test_weights_of_another_network_are_refused(tmp_path, inline_executor):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    run = _started(str(tmp_path / "weights.pt"), "resnet9", tmp_path / "run", inline_executor)
    failed = [event.error for event in run.events if event.kind == "failed"]
    assert "do not fit model" in failed[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistics": ("median",)}, "unknown statistic 'median': expected some of"),
        ({"statistics": ()}, "statistics: expected at least one"),
        ({"seeds": (1, 1)}, r"seeds \[1, 1\]"),
        ({"tuning_images": 0}, "tuning_images=0"),
        ({"data": "volumes"}, "masks inside the network are for images"),
        ({"tuning": Recipe()}, "cannot be cropped or flipped"),
    ],
)
def test_what_cannot_be_run_is_refused_at_the_edge(options, message):
    with pytest.raises(PlanError, match=message):
        replace(tiny_layers_plan("mean"), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fractions", "kar:2.5"], "expected both once, such as kar:2.5,roar:10"),
        (["--fractions", "kar:0,roar:10"], "kar fraction 0 %: expected more than 0"),
        (["--weights-out", "prior.txt"], "expected a name that ends in .json"),
        (["--statistics", "median"], "unknown statistic 'median'"),
        (["--start", "nowhere.pt"], "no file 'nowhere.pt'"),
    ],
)
def test_a_wrong_option_is_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["layers", "--out", "run", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert not Path("run").exists()


def _command(out: Path) -> list[str]:
    options = "--train-images 64 --tuning-images 48 --test-images 32 --image-size 16 --epochs 1"
    options += " --base-epochs 1 --batch-size 16 --statistics smoe_scale,mean --workers 2"
    command = [sys.executable, "-m", "comparisons", "layers", *options.split()]
    return [*command, "--out", str(out), "--weights-out", str(out / "prior.json")]


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    out = tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(
        _command(out), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list((out / "cells").glob("[!.]*.json"))) < 6:
        assert time.monotonic() < deadline
        assert driver.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait(60)
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("[!.]*.json")}
    done = subprocess.run(
        _command(out), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "report.html").exists()
    # So short a training may have found nothing: then there are no weights, and that is said.
    assert (out / "prior.json").exists() == (done.returncode == 0)
    if done.returncode:
        assert "at no scale is smoe_scale better than random" in done.stdout
    assert "smoe_scale, roar at stage3, seed 0  accuracy" in done.stdout
    assert "were done before" in done.stdout


@pytest.fixture
def in_process(monkeypatch, inline_executor):
    """Runs that start no processes."""

    class InProcess:
        @staticmethod
        @contextmanager
        def running(store, **_):
            yield inline_executor(store)

    monkeypatch.setattr(select, "LocalExecutor", InProcess)


def test_a_run_says_what_it_needs_and_writes_its_page_and_weights(
    in_process, tmp_path, monkeypatch
):
    monkeypatch.setattr(prior, "difference_score", lambda **accuracies: 0.25 + accuracies["kar"][0])
    out, weights = tmp_path / "run", tmp_path / "prior.json"
    console = Console(record=True, width=200)
    plan = tiny_layers_plan("mean", seeds=(0,))
    # So short a training learns nothing, which the page says.
    with pytest.warns(UserWarning, match="is not above chance"):
        report = _run(plan, out, weights_out=weights, log_base=2, console=console)
    said = console.export_text()
    assert "Plan: 1 network, 16 fine-tunings at stage1.0, stage2.0, stage3.0, stage3" in said
    # 80 images of 32 * 16 * 16 + 64 * 8 * 8 + 128 * 4 * 4 + 128 * 2 * 2 numbers of 4 bytes: 4.53.
    assert "; 5 MiB of activations" in said
    assert said.index("Plan: ") < said.index("random, kar at stage3, seed 0  accuracy")
    assert json.loads(weights.read_text())["statistic"] == "mean"
    assert "to base\n2" in report.read_text()
    kept = json.loads((out / "plan.json").read_text())
    assert kept["layers"] == list(LAYERS)
    assert LayersPlan.from_json(kept["plan"]) == plan
    assert not list(out.rglob(".partial-*"))
    # What a pass over the images makes again is not kept.
    assert "Removed 5 MiB of activations" in said
    assert not (out / "activations").exists()


def test_another_plan_may_not_use_the_directory(in_process, tmp_path):
    plan = tiny_layers_plan("mean", seeds=(0,))
    content = {"kind": "layers", "plan": asdict(plan)}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="holds a run with another model, tuning_images: give"):
        _run(replace(plan, model="resnet20", tuning_images=16), tmp_path)
    refused = CliRunner().invoke(app, ["run", "--preset", "smoke", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "`python -m comparisons layers` made" in " ".join(refused.output.split())
    (tmp_path / "plan.json").write_text(json.dumps({"plan": {}}))
    with pytest.raises(RunError, match="holds what `python -m comparisons run` made: give another"):
        _run(plan, tmp_path)


def _run(plan: LayersPlan, out: Path, **options) -> Path:
    stated = {"weights_out": None, "log_base": None, "console": Console(quiet=True)}
    stated |= {"engine": Engine(workers=1), "command": "a command"}
    return run_layers(plan, out, **(stated | options))
