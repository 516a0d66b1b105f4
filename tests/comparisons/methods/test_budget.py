"""Passes within the budget: what they hold is counted, and maps do not depend on it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from comparisons import budget
from comparisons.budget import in_slices, rows_at_once, set_memory_budget
from comparisons.methods import METHODS, Batch
from comparisons.methods.examples import example_batch
from evaluation.datasets.load import Request, load_dataset
from evaluation.networks.build import build_network
from evaluation.profiling.memory import peak_bytes

pytestmark = pytest.mark.heavy

_WITH_PASSES = [name for name, entry in METHODS.items() if entry.passes]
_COUNTED = [name for name in _WITH_PASSES if METHODS[name].passes <= 25]


@pytest.fixture(autouse=True)
def _default_budget() -> Iterator[None]:
    yield
    set_memory_budget(budget.MEMORY_BUDGET_MIB)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_network("resnet9", 8, 0, size=(16, 16)).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    dataset = load_dataset("shapes", Request(train_images=8, test_images=16, image_size=16))
    return example_batch(dataset, "test", np.arange(16) % 8, np.arange(16))


def test_rows_are_those_that_fit():
    def explain(inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        of_the_pass = torch.ones(250)  # 1,000 bytes, and 4 for its sum
        of_a_row = inputs.repeat(1, 2, 1, 1)  # 800 bytes, and 400 for its map
        return of_a_row[:, :1] + of_the_pass.sum()

    inputs, target = torch.ones(1, 1, 10, 10), torch.zeros(1)
    for rows in (2, 3, 7):
        fits = 1004 + 1200 * rows
        assert peak_bytes(lambda n=rows: explain(inputs.repeat(n, 1, 1, 1), target)) == (
            fits + 400 * rows  # the inputs, which were there before in what follows
        )
        assert rows_at_once(explain, inputs, target, fits) == rows
        assert rows_at_once(explain, inputs, target, fits - 1) == rows - 1
    assert rows_at_once(explain, inputs, target, 1) == 1


@pytest.mark.filterwarnings(
    "ignore:Input Tensor",
    "ignore:Setting .*backward hooks",
    "ignore:gradcam",
    "ignore:layer.* give no negative",
)
@pytest.mark.parametrize("name", _WITH_PASSES)
def test_maps_do_not_depend_on_the_budget(name, network, batch):
    explain = METHODS[name].prepare(network)
    set_memory_budget(1)
    small = explain(batch)
    set_memory_budget(4096)
    torch.testing.assert_close(small, explain(batch), rtol=1e-4, atol=1e-6 * float(small.max()))


@pytest.mark.filterwarnings(
    "ignore:Input Tensor",
    "ignore:Setting .*backward hooks",
    "ignore:gradcam",
    "ignore:layer.* give no negative",
)
@pytest.mark.parametrize("name", _COUNTED)
def test_no_pass_holds_more_than_the_budget(name, network, batch):
    passes = METHODS[name].prepare(network)
    set_memory_budget(1)
    passes(batch)
    held = peak_bytes(lambda: passes(batch))
    # Beside a pass there are the inputs, what is drawn and the map: a few images each.
    images = 5 * batch.inputs.numel() * batch.inputs.element_size()
    assert held <= 2**20 + images
    set_memory_budget(4096)
    unbounded = METHODS[name].prepare(network)
    unbounded(batch)
    # Otherwise the budget would not have been what bounds it.
    if METHODS[name].group == "gradient":
        assert peak_bytes(lambda: unbounded(batch)) > 2 * 2**20


def test_what_the_first_call_of_a_kind_takes_alone_does_not_count():
    seen = set()

    def explain(inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # As an attributor, which follows the pixels of each kind of batch once.
        if len(inputs) not in seen:
            seen.add(len(inputs))
            torch.ones(5000 * len(inputs))
        return inputs * 2

    inputs, target = torch.ones(1, 1, 10, 10), torch.zeros(1)
    assert rows_at_once(explain, inputs, target, 400 * 7) == 7
    assert rows_at_once(explain, inputs, target, 400 * 7 - 1) == 6


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="memory budget of 0 MiB: expected at least 1"):
        set_memory_budget(0)


@pytest.mark.parametrize(
    ("rows", "at_once", "lengths"),
    [(64, 21, [16] * 4), (7, 3, [3, 3, 1]), (9, 4, [3] * 3), (5, 5, [5]), (2, 9, [2])],
)
def test_slices_are_few_and_of_a_length(rows, at_once, lengths):
    seen = []

    def explain(inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs))
        return 10 * inputs + target

    inputs, target = torch.arange(rows), torch.arange(rows) % 3
    found = in_slices(explain, inputs, target, at_once)
    assert seen == lengths
    assert found.tolist() == (10 * inputs + target).tolist()
