"""Families of networks: shares counted by hand, and the recorded table."""

import random

import pytest
import torch
from torch import nn

from evaluation.profiling.random_weights import enliven
from reports.families.__main__ import PAGE, RECORDS
from reports.families.graph import Graph, last_cut, missed, unread
from reports.families.measurement import (
    Measurement,
    measure,
    read_measurements,
    survey,
    write_measurements,
)
from reports.families.networks import smallest, timm_families
from reports.families.page import (
    MOST_AFTER,
    REASONS,
    is_regular,
    reason,
    without_reason,
    write_page,
)

# Quick ones are drawn: the test takes a minute or two.
MOST_PARAMETERS = 15_000_000
DRAWN = 10


class Gated(nn.Module):
    """A residual block, a gate beside it, a downsampling, and a head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.gate = nn.Conv2d(3, 4, 1)
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        first = self.first(x)
        kept = (first + self.inner(first)) * self.gate(x).sigmoid()
        return self.head(self.third(self.second(kept)).mean((2, 3)))


def _numbers(network, leaves):
    """The names of the submodules whose parameters are among some leaves."""
    return {
        name.partition(".")[0]
        for name, parameter in network.named_parameters()
        if id(parameter) in leaves
    }


def _call(graph, module):
    return next(call for call in graph.calls if call.module is module)


@pytest.fixture
def gated():
    torch.manual_seed(0)
    network = Gated().eval()
    return network, Graph(network, torch.rand(1, 3, 8, 8))


def test_what_runs_after_a_tensor_and_what_passes_it(gated):
    network, graph = gated
    made = _call(graph, network.first).made
    assert _numbers(network, graph.after(made)) == {"inner", "second", "third", "head"}
    assert _numbers(network, graph.around(made)) == {"inner", "gate", "second", "third", "head"}
    assert not graph.is_cut(made)
    assert not graph.is_cut(_call(graph, network.gate).made)
    second = _call(graph, network.second).made
    assert graph.is_cut(second)
    assert _numbers(network, graph.after(second)) == {"third", "head"}
    assert graph.around(second) == graph.after(second)


def test_the_last_cut_of_a_grid_and_the_share_before_it(gated):
    network, graph = gated
    second = _call(graph, network.second)
    later = last_cut(graph, (4, 4), second.end)
    assert later is not None
    assert later.module is network.third
    # 8 * 4 * 9 + 8 parameters of the second, 8 * 8 * 9 + 8 of the third.
    assert missed(graph, (4, 4), second.end, later.end) == pytest.approx(584 / (296 + 584))
    assert last_cut(graph, (8, 8), _call(graph, network.first).end) is None


@pytest.mark.parametrize("dimension", [1, 2])
def test_tokens_of_a_grid_are_a_cut(dimension):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 6, 2, 2)
            self.mixer = nn.Linear(6, 6)
            self.turned = nn.Identity()

        def forward(self, x):
            tokens = self.mixer(self.patches(x).flatten(2).transpose(1, 2))
            return self.turned(tokens.transpose(1, 2) if dimension == 2 else tokens).mean(dimension)

    network = Tokens()
    graph = Graph(network, torch.rand(1, 3, 8, 8))
    later = last_cut(graph, (4, 4), _call(graph, network.patches).end)
    assert later is not None
    assert later.module is network.turned


def test_a_measurement_leaves_out_what_works_on_one_location():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )
    found = measure("by hand", "small", network.eval(), torch.rand(1, 3, 8, 8))
    body = 3 * 4 * 9 + 4 + 4 * 8 * 9 + 8
    assert found.parameters == body + 90
    assert found.head == pytest.approx(90 / (body + 90))
    assert (found.after, found.beside) == (0, 0)
    assert [(scale.name, scale.stride, scale.size) for scale in found.scales] == [
        ("1", 1, (4, 8, 8)),
        ("4", 2, (8, 4, 4)),
    ]


def test_a_network_without_scales_says_why():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    found = measure("by hand", "flat", network, torch.rand(1, 3, 8, 8))
    assert not found.scales
    assert "no candidate" in found.error
    assert without_reason([found]) == ["by hand"]


@pytest.mark.filterwarnings("ignore:found 1 spatial scale")
def test_one_resolution_is_a_reason():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    found = measure("by hand", "flat", network, torch.rand(1, 3, 8, 8))
    assert not is_regular(found)
    assert reason(found) == "one resolution"


def test_an_octave_without_a_scale_is_told(gated):
    _, graph = gated
    assert unread(graph, [(8, 8)]) == [16]
    assert unread(graph, [(8, 8), (4, 4)]) == []
    stack = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)).eval()
    assert unread(Graph(stack, torch.rand(1, 3, 8, 8)), [(4, 4)]) == [64]


def test_gains_of_zero_do_not_hide_a_branch():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.zeros_(network[1].weight)
    images = torch.rand(2, 3, 8, 8)
    enliven(network, images)
    assert not any(module.training for module in network.modules())
    made = network(images).detach()
    assert made.std((0, 2, 3), correction=0) == pytest.approx([1.0] * 4, abs=0.02)
    assert network[1].momentum == 0.1


def test_the_smallest_comes_first():
    names = ["resnet50", "resnet18", "resnet34"]
    assert smallest(names) == ["resnet18", "resnet34", "resnet50"]


def test_a_network_that_does_not_exist_is_said():
    found = survey("none", ["no_such_network"])
    assert "no_such_network" in found.error
    assert found.size == 0


def test_measurements_come_back_from_their_file(tmp_path):
    path = tmp_path / "records.jsonl"
    measured = read_measurements(RECORDS)
    write_measurements(path, measured.values())
    assert read_measurements(path) == measured
    assert path.read_bytes() == RECORDS.read_bytes()


def test_the_page_is_written_from_the_records(tmp_path):
    write_page(tmp_path / "families.md", read_measurements(RECORDS).values())
    assert (tmp_path / "families.md").read_text() == PAGE.read_text()


def test_every_family_of_timm_is_recorded():
    pytest.importorskip("timm")
    assert set(timm_families()) <= set(read_measurements(RECORDS))


def test_little_comes_after_the_last_scale_or_there_is_a_reason():
    measured = read_measurements(RECORDS)
    assert without_reason(measured.values()) == []
    strays = [one for one in REASONS if one not in measured or is_regular(measured[one])]
    assert strays == []


def _quick() -> list[Measurement]:
    measured = read_measurements(RECORDS).values()
    return [one for one in measured if one.size and one.parameters < MOST_PARAMETERS]


@pytest.mark.slow
@pytest.mark.parametrize("found", random.Random(14).sample(_quick(), DRAWN), ids=lambda f: f.family)
def test_a_family_measured_anew(found):
    package = found.family.partition(" ")[0]
    pytest.importorskip(package)
    anew = survey(found.family, [found.network])
    assert [scale.name for scale in anew.scales] == [scale.name for scale in found.scales]
    assert anew.after + anew.beside <= MOST_AFTER or reason(anew)
