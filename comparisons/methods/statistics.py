"""SMOE Scale and the other statistics over channels, as methods of the comparison."""

from __future__ import annotations

from torch import nn

from comparisons.budget import within_budget
from comparisons.methods.base import PAPER, Explain
from comparisons.methods.registry import method
from fastsal import SMOEScale, Statistic
from fastsal.statistics.registry import STATISTICS
from reports.paper import TITLES

__all__ = ["register_statistics"]

_SMOE = "smoe_scale"


def register_statistics() -> None:
    """Register SMOE Scale by its weights, then every other statistic of `fastsal.statistics`."""
    for weights in ("equal", "linear", "prior"):
        _register_statistic(STATISTICS[_SMOE], weights)
    for statistic in STATISTICS.values():
        if statistic.name != _SMOE:
            _register_statistic(statistic, "linear")
    # The statistics that Table 5 of the paper has beside SMOE Scale.
    for name in ("std", "truncnormal_entropy"):
        _register_statistic(STATISTICS[name], "prior")


def _register_statistic(statistic: Statistic, weights: str) -> None:
    prefix = "smoe" if statistic.name == _SMOE else statistic.name
    title = TITLES.get(statistic.name, statistic.name.replace("_", " ").capitalize())

    def scales(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights, statistic=statistic)
        return lambda batch: attributor.maps(batch.inputs).stacked

    @method(
        f"{prefix}-{weights}",
        f"{title}, {weights} weights",
        "smoe",
        PAPER if statistic.name == _SMOE else statistic.citation,
        {"weights": weights, "statistic": statistic.name, "normalize": "gaussian"},
        passes=1,
        gradients=0,
        scales=scales,
    )
    def prepare(model: nn.Module) -> Explain:
        attributor = SMOEScale(model, weights=weights, statistic=statistic)
        # Not `maps`, which also keeps the map of every scale and takes longer.
        explain = within_budget(
            lambda inputs, _: attributor.attribute(inputs, expand_channels=False)[:, 0]
        )
        return lambda batch: explain(batch.inputs, batch.target)
