"""Counts beside those of the parts."""

from __future__ import annotations

import torch

from evaluation.profiling.memory import count_memory
from evaluation.profiling.operations import count_operations
from evaluation.profiling.profile import count


def test_counts_are_those_of_the_two_parts():
    x = torch.rand(8, 8)

    def forward() -> torch.Tensor:
        return x @ x

    def explain() -> torch.Tensor:
        return (x @ x).log2() @ x

    counts = count(forward, explain)
    assert counts.forward == count_operations(forward)
    assert counts.map == count_operations(explain)
    assert counts.map_memory == count_memory(explain)
    assert counts.extra_peak_bytes == 256
    assert counts.extra_scratch_bytes == 512


def test_a_first_call_s_cost_is_not_counted():
    kept: list[torch.Tensor] = []

    def explain() -> torch.Tensor:
        if not kept:
            kept.append(torch.ones(1000).log2())
        return kept[0] + 1

    counts = count(lambda: None, explain)
    assert counts.map.transcendental == 0
    assert counts.extra_peak_bytes == 4000


def test_metrics_are_the_counts_by_name():
    def forward() -> torch.Tensor:
        return torch.ones(8, 8) @ torch.ones(8, 8)

    def explain() -> torch.Tensor:
        return forward().log2().sum(0) * 2

    assert count(forward, explain).metrics() == {
        "map_flops": 2 * 8**3,
        "map_elementwise": 8,
        "map_transcendental": 64,
        "map_reduction": 64,
        # Two factors and the product at both peaks; the forward pass returns the product.
        "peak_bytes": 0,
        "scratch_bytes": 256,
    }


def test_what_no_rule_covers_is_named():
    counts = count(lambda: None, lambda: torch.ones(4).median())
    assert counts.not_counted == {"not_counted": "median"}
    assert count(lambda: None, lambda: torch.ones(4) + 1).not_counted == {}
