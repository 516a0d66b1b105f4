"""What a method costs, from the command to the page, on a network that takes milliseconds."""

from __future__ import annotations

import csv
import json
import math
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from typer.testing import CliRunner

from comparisons.__main__ import app
from comparisons.graph.costs import build_cost_cells
from comparisons.methods import METHODS, Batch, resolve
from comparisons.methods import costed as costs_methods
from comparisons.methods.costed import (
    COST_ONLY,
    compiled_network,
    costed,
    installed,
    resolve_costed,
)
from comparisons.plans.costs import CostPlan
from comparisons.runs import costs
from evaluation.networks.build import build_network
from evaluation.profiling.memory import peak_bytes
from evaluation.profiling.operations import Operations, count_operations
from evaluation.storage.store import Store
from fastsal import find_scales
from reports.analysis.cost_tables import cost_tables
from reports.records.reading import read_run

pytestmark = pytest.mark.training

TABLE6 = Path(__file__).parents[3] / "reports" / "paper" / "table6_flops_resnet50.csv"
METHODS_RUN = "smoe-linear,gradient,captum-layer-gradcam"
OPTIONS = (
    *("--model", "resnet9", "--size", "16", "--classes", "8", "--batch", "1,2"),
    *("--rounds", "2", "--threads", "1"),
)


def profile(out: Path, *options: str):
    return CliRunner().invoke(app, ["profile", *OPTIONS, "--out", str(out), *options])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("costs") / "run"
    done = profile(out, "--methods", METHODS_RUN)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 8, 0, size=(16, 16)).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    inputs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Batch(inputs, torch.tensor([1, 5]), torch.arange(2), 1.0, (0.0, 0.0, 0.0))


def cells(out: Path, kind: str = "cost", **spec):
    found = [cell for cell in Store(out).results() if cell.kind == kind]
    return [c for c in found if all(c.spec[name] == value for name, value in spec.items())]


def value(cell, metric):
    (found,) = [record.value for record in cell.records if record.metric == metric]
    return found


def test_every_method_and_the_network_have_a_cell_for_each_batch(finished):
    names = ["none", *METHODS_RUN.split(",")]
    assert len(cells(finished)) == 2 * len(names)
    for name in names:
        assert {cell.spec["batch"] for cell in cells(finished, method=name)} == {1, 2}
        assert all(len(cell.history) == 2 for cell in cells(finished, method=name))


def test_counts_are_those_of_the_method_itself(finished, network):
    (cell,) = cells(finished, "counts", method="gradient")
    inputs = torch.rand(1, 3, 16, 16)

    def gradient() -> torch.Tensor:
        x = inputs.clone().requires_grad_()
        scores = network(x)[:, 0]
        (grad,) = torch.autograd.grad(scores.sum(), x)
        return grad.abs().sum(1)

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return network(inputs)

    assert value(cell, "map_flops") == count_operations(gradient).flops
    (plain,) = cells(finished, "counts", method="none")
    assert value(plain, "map_flops") == count_operations(forward).flops
    assert value(plain, "peak_bytes") == value(plain, "scratch_bytes") == 0
    assert value(plain, "forward_bytes") == peak_bytes(forward)
    # But for a copy or two of the input.
    extra = peak_bytes(gradient) - peak_bytes(forward)
    assert value(cell, "peak_bytes") == pytest.approx(extra, abs=2 * 3 * 16 * 16 * 4)


def test_the_network_alone_adds_nothing(finished):
    assert all(value(cell, "map_ms") > 0 for cell in cells(finished, method="none"))
    (smoe,), (plain,) = (cells(finished, "counts", method=name) for name in ("smoe-linear", "none"))
    assert value(smoe, "map_flops") == value(plain, "map_flops") > 0
    assert value(smoe, "map_transcendental") > value(plain, "map_transcendental") == 0


def test_the_statistic_stands_beside_one_reading_of_the_same_activations(finished):
    found = cells(finished, "reading")
    assert {cell.spec["batch"] for cell in found} == {1, 2}
    channel_sums = cost_tables(read_run(finished)).channel_sums
    for cell in found:
        quotients = [entry["map_ms"] / entry["forward_ms"] for entry in cell.history]
        ((_, shown),) = [item for item in channel_sums.items() if item[0][1] == cell.spec["batch"]]
        assert shown.median == pytest.approx(sum(quotients) / 2)


def test_what_is_measured_is_not_measured_again(finished, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    done = profile(finished, "--methods", f"{METHODS_RUN},read-once")
    assert done.exit_code == 0, done.output
    assert done.output.count("done before") == len(before)
    after = {path: path.stat().st_mtime_ns for path in (finished / "cells").iterdir()}
    assert {path: after[path] for path in before} == before
    # A time for each batch, and the counts.
    assert len(after) == len(before) + 3
    plan = json.loads((finished / "plan.json").read_text())
    assert list(plan["methods"]) == [*METHODS_RUN.split(","), "read-once"]


def test_an_interrupted_run_keeps_what_it_has_and_goes_on(tmp_path, monkeypatch):
    real, seen = costs.run_cell, []

    def interrupted(cell, store, **options):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(cell)
        return real(cell, store, **options)

    monkeypatch.setattr(costs, "run_cell", interrupted)
    out = tmp_path / "run"
    stopped = profile(out, "--methods", "smoe-linear")
    assert stopped.exit_code == 130
    assert "the same command continues" in " ".join(stopped.output.split())
    assert len(list((out / "cells").iterdir())) == 3
    monkeypatch.setattr(costs, "run_cell", real)
    done = profile(out, "--methods", "smoe-linear")
    assert done.exit_code == 0
    assert done.output.count("done before") == 3


def test_a_method_that_fails_leaves_the_others(tmp_path, monkeypatch):
    def broken(model: nn.Module):
        raise RuntimeError("no such layer")

    entry = COST_ONLY["captum-layer-gradcam"]
    monkeypatch.setitem(COST_ONLY, entry.name, type(entry)(**{**vars(entry), "prepare": broken}))
    done = profile(tmp_path / "run", "--methods", "captum-layer-gradcam,smoe-linear")
    assert done.exit_code == 2
    assert "captum-layer-gradcam, 1 at once: RuntimeError: no such layer" in done.output
    assert len(cells(tmp_path / "run", method="smoe-linear")) == 2


def test_the_page_has_the_paper_s_rows_and_says_what_is_not_measured(finished):
    page = (finished / "report.html").read_text()
    assert "What a map costs: resnet9" in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert page.count("On a GPU: not measured") == 1
    # ResNet-9 at 16x16: the first scale has 32 channels, so 129 x 256 operations.
    assert "33,024" in page


def test_table_6_of_resnet_50_and_our_own_count_beside_it(tmp_path):
    done = CliRunner().invoke(
        app,
        [
            *("profile", "--model", "tests.comparisons.runs.test_costs:scales_of_resnet50"),
            *("--methods", "read-once", "--batch", "1", "--rounds", "1", "--threads", "1"),
            *("--out", str(tmp_path / "run")),
        ],
    )
    assert done.exit_code == 0, done.output
    (cell,) = [cell for cell in Store(tmp_path / "run").results() if cell.kind == "steps"]
    with TABLE6.open() as file:
        for ours, row in zip(cell.history, csv.DictReader(file), strict=True):
            paper = {name: float(number) for name, number in row.items()}
            assert ours["paper_statistic"] == paper["smoe_ops"]
            assert ours["paper_normalization"] == paper["norm_ops"]
            assert ours["paper_combination"] == paper["combine_ops"]
            # Our own count, an independent one, is of the same order.
            assert 0.5 < ours["statistic"] / paper["smoe_ops"] < 2


def scales_of_resnet50(classes: int) -> nn.Module:
    """Something cheap whose scales have the shapes of ResNet-50's."""
    layers: list[nn.Module] = []
    before = 3
    for channels in (64, 256, 512, 1024, 2048):
        layers += [nn.Conv2d(before, channels, 1, stride=2), nn.ReLU()]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def test_tables_hold_a_method_s_overhead_against_smoe_s(finished):
    tables = cost_tables(read_run(finished))
    assert [table.batch for table in tables.times] == [1, 2]
    first = tables.times[0]
    assert first.rows[0].name == "none"
    smoe, gradient = first.row("smoe-linear"), first.row("gradient")
    if smoe.added.median > 0:
        assert gradient.times_smoe.value == pytest.approx(gradient.added.median / smoe.added.median)
        assert smoe.times_smoe.value == 1.0
    assert first.row("none").times_smoe is None
    # A gradient of the input is another pass, a multiply-add as one.
    counted = tables.counted(first.setting, "gradient")
    assert counted.added("map_flops") == tables.counted(first.setting, "none").value("map_flops")
    assert counted.added_percent > 100


def test_networks_stand_side_by_side_whether_asked_for_together_or_not(tmp_path):
    out, options = tmp_path / "run", ("--methods", "read-once", "--batch", "1")
    done = profile(out, *options, "--model", "resnet9,resnet20")
    assert done.exit_code == 0, done.output
    own = "tests.comparisons.runs.test_costs:scales_of_resnet50"
    later = profile(out, *options, "--model", own)
    assert later.exit_code == 0, later.output
    tables = cost_tables(read_run(out))
    assert tables.models == ["resnet9", "resnet20", own]
    plan = json.loads((out / "plan.json").read_text())["plan"]
    assert plan["models"] == tables.models
    page = (out / "report.html").read_text()
    assert f"<th>resnet9</th><th>resnet20</th><th>{own}</th>" in page


def test_a_method_that_does_not_run_the_network_adds_no_time_to_it(tmp_path):
    done = profile(tmp_path / "run", "--methods", "centre", "--batch", "1")
    assert done.exit_code == 0, done.output
    (table,) = cost_tables(read_run(tmp_path / "run")).times
    assert not table.row("centre").runs_network
    assert table.row("centre").times_smoe is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<td class="missing">does not run the network</td>' in page


def test_every_precision_and_the_compiled_network_have_cells():
    options = {"precisions": ("float32", "bfloat16"), "batches": (1, 32), "compiled": True}
    plan = CostPlan(("resnet9", "resnet20"), ("read-once",), **options)
    wanted = product(
        *(("resnet9", "resnet20"), ("float32", "bfloat16"), (False, True), (1, 32)),
        ("none", "read-once"),
    )
    names = ("model", "precision", "compiled", "batch", "method")
    found = [cell.spec for _, cell in build_cost_cells(plan) if cell.kind == "cost"]
    assert [tuple(spec[name] for name in names) for spec in found] == list(wanted)
    # What is counted does not depend on the batch, and a compiled network's cannot be followed.
    counted = [cell for _, cell in build_cost_cells(plan) if cell.kind == "counts"]
    assert len(counted) == len({cell.id for cell in counted}) == 2 * 2 * 2


def test_the_compiled_network_stands_beside_the_eager_one(tmp_path, monkeypatch):
    # The same graph and guards, without a C++ compiler's half minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    options = ("--methods", "read-once", "--batch", "2", "--dtype", "bfloat16", "--compile")
    done = profile(tmp_path / "run", *options)
    assert done.exit_code == 0, done.output
    tables = cost_tables(read_run(tmp_path / "run"))
    assert [setting.title for setting in tables.settings] == [
        "resnet9, 16x16, bfloat16, cpu, 1 thread",
        "resnet9, 16x16, bfloat16, compiled, cpu, 1 thread",
    ]
    assert all(table.row("read-once") is not None for table in tables.times)


def test_with_map_has_smoe_scale_s_map_and_is_compiled_with_the_network(
    batch, network, monkeypatch
):
    expected = costed()["smoe-linear"].prepare(network)(batch)
    asked = []

    def compile_eagerly(module, **settings):
        asked.append((type(module).__name__, settings))
        return real(module, backend="eager")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    nets = (network, *(compiled_network(network, cuda_graphs=graphs) for graphs in (False, True)))
    for net in nets:
        with torch.inference_mode():
            found = costed()["with-map"].prepare(net)(batch)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    name = type(network).__name__
    graphs = {"mode": "reduce-overhead"}
    assert asked == [(name, {}), (name, graphs), ("ModelWithMap", {}), ("ModelWithMap", graphs)]


def test_cuda_graphs_have_cells_of_their_own_and_change_no_other(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    options = {"batches": (1,), "compiled": True, "device": "cuda"}
    plans = [
        CostPlan(("resnet9",), ("read-once",), cuda_graphs=on, **options) for on in (False, True)
    ]
    plain, graphs = ({cell.id: cell.spec for _, cell in build_cost_cells(plan)} for plan in plans)
    assert plain.keys() < graphs.keys()
    added = [spec for name, spec in graphs.items() if name not in plain]
    assert [spec["method"] for spec in added] == ["none", "read-once"]
    assert all(spec["compiled"] and spec["cuda_graphs"] for spec in added)
    assert all("cuda_graphs" not in spec for spec in plain.values())
    with pytest.raises(ValueError, match="--cuda-graphs is for --device cuda, got cpu"):
        CostPlan(("resnet9",), ("read-once",), cuda_graphs=True)


class _OneOperation(torch.autograd.Function):
    """A network as one node of autograd's graph, as compiled code is."""

    @staticmethod
    def forward(ctx, inputs, network):
        with torch.enable_grad():
            ctx.leaf = inputs.detach().requires_grad_()
            ctx.output = network(ctx.leaf)
        return ctx.output.detach()

    @staticmethod
    def backward(ctx, gradient):
        return *torch.autograd.grad(ctx.output, ctx.leaf, gradient), None


class Unhooked(nn.Module):
    """Runs a twin of a network that no hook reaches, as compiled code does."""

    def __init__(self, network: nn.Module, gain: float = 1.0) -> None:
        super().__init__()
        self.network, self.twin, self.gain = network, [deepcopy(network)], gain

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return _OneOperation.apply(inputs, self.twin[0]) * self.gain


def test_a_method_that_cannot_see_inside_a_compiled_network_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", Unhooked)
    done = profile(tmp_path, "--methods", "guided-backprop,gradient", "--batch", "1", "--compile")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "compiled, guided-backprop, 1 at once: NoRectifierError: Guided Backprop" in said
    timed = {(c.spec["method"], c.spec["compiled"]) for c in cells(tmp_path)}
    assert ("guided-backprop", False) in timed
    assert ("guided-backprop", True) not in timed
    # A plain gradient needs to see nothing.
    assert ("gradient", True) in timed


def test_a_method_with_another_map_of_the_compiled_network_is_not_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(Unhooked, gain=2.0))
    done = profile(tmp_path, "--methods", "gradient", "--batch", "1", "--compile")
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "compiled, gradient, 1 at once: RuntimeError: gradient gives another map" in said


def test_a_network_that_cannot_be_compiled_is_said_so(tmp_path, monkeypatch):
    def refuse(graph, inputs):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=refuse))
    done = profile(tmp_path / "run", "--methods", "read-once", "--batch", "1", "--compile")
    assert done.exit_code == 2
    assert "torch.compile cannot compile resnet9 here: " in " ".join(done.output.split())
    assert len(cells(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "nothing"), "unknown method 'nothing'"),
        (("--batch", "0"), "--batch 0: expected at least 1"),
        (("--rounds", "0"), "--rounds 0: expected at least 1"),
        (("--precision", "int8"), "unknown precision 'int8'"),
        (("--batch", "1,1"), "batch sizes: 1 is given twice"),
        (("--model", ","), "no models given"),
        (("--limit", "0"), "--limit 0: expected more than 0 seconds"),
        (("--model", "resnet9x"), "unknown model 'resnet9x'"),
    ],
)
def test_mistakes_get_one_message(tmp_path, options, message):
    done = profile(tmp_path / "run", *options)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_directory_of_another_run_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"plan": {}}))
    done = profile(tmp_path, "--methods", "read-once")
    assert done.exit_code == 2
    assert "holds what `python -m comparisons run` made" in " ".join(done.output.split())


def test_peers_are_costed_and_never_retrained():
    assert not set(COST_ONLY) & set(METHODS)
    assert not set(COST_ONLY) & set(resolve(None, has_object_masks=True))
    assert set(METHODS) - set(costed()) == {"oracle"}
    assert {"read-once", "captum-layer-gradcam"} < set(resolve_costed(None))


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(costs_methods, "find_spec", lambda _: None)
    assert "torchcam" not in costed()
    with pytest.raises(ValueError, match="needs the package torchcam, which is not installed"):
        resolve_costed(("torchcam",))


@pytest.mark.parametrize("name", COST_ONLY)
def test_a_peer_leaves_no_hook_behind(name, network, batch):
    if not installed(name):
        pytest.skip("its package is not installed")
    COST_ONLY[name].prepare(network)(batch)
    network.zero_grad(set_to_none=True)
    for module in network.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        assert not any(hooks)


def test_the_peers_class_activation_maps_agree(network, batch):
    layer = find_scales(network, batch.inputs[:1])[-1].module
    expected = LayerGradCam(network, layer).attribute(batch.inputs, batch.target)[:, 0].relu()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-12)
    ours = COST_ONLY["captum-layer-gradcam"].prepare(network)(batch).relu()
    ours = ours / ours.amax((1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(ours, expected.detach())
    if installed("torchcam"):
        theirs = COST_ONLY["torchcam"].prepare(network)(batch)
        low = expected.amin((1, 2), keepdim=True)
        spread = (expected.amax((1, 2), keepdim=True) - low).clamp_min(1e-12)
        torch.testing.assert_close(theirs, (expected - low).div(spread).detach(), atol=1e-5, rtol=0)


def test_reading_once_reads_every_scale(network, batch):
    first = find_scales(network, batch.inputs[:1])[0]
    seen = []
    handle = first.module.register_forward_hook(lambda _, __, output: seen.append(output.sum(1)))
    with torch.no_grad():
        sums = COST_ONLY["read-once"].prepare(network)(batch)
    handle.remove()
    torch.testing.assert_close(sums, seen[-1])


def test_reading_once_adds_one_sum_over_every_scale_to_the_forward_pass(network, batch):
    explain = COST_ONLY["read-once"].prepare(network)
    with torch.no_grad():
        explain(batch)  # finds the scales
        forward = count_operations(lambda: network(batch.inputs))
        added = count_operations(lambda: explain(batch)) - forward
    scales = find_scales(network, batch.inputs)
    assert added == Operations(reduction=sum(math.prod(scale.shape) for scale in scales))


def test_a_plan_without_batches_is_refused():
    with pytest.raises(ValueError, match="no batch sizes given"):
        CostPlan(("resnet9",), ("read-once",), batches=())
