"""SMOE Scale and the other statistics over channels, as methods of the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from comparisons.budget import Rows, within_budget
from comparisons.methods.activation_maps.scales import late, on_scales
from comparisons.methods.base import PAPER, Explain
from comparisons.methods.registry import method
from fastsal import Scale, SMOEScale, Statistic
from fastsal.statistics.registry import STATISTICS
from reports.paper import TITLES

__all__ = ["register_statistics"]

_SMOE = "smoe_scale"


def register_statistics() -> None:
    """Register SMOE Scale by its weights and layers, then every other statistic."""
    for weights in ("equal", "linear", "prior"):
        _register_statistic(STATISTICS[_SMOE], weights)
    _register_late()
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


def _register_late() -> None:
    """Register SMOE Scale of late scales alone: the early ones hold most of the activations."""

    def build(model: nn.Module, scales: Sequence[Scale]) -> Rows:
        attributor = SMOEScale(model, late(scales), weights="linear")

        def explain(inputs: Tensor, target: Tensor) -> Tensor:
            del target
            maps: Tensor = attributor.attribute(inputs, expand_channels=False)
            return maps[:, 0]

        return explain

    method(
        "smoe-late",
        f"{TITLES[_SMOE]}, late scales",
        "smoe",
        PAPER,
        {
            "weights": "linear",
            "statistic": _SMOE,
            "normalize": "gaussian",
            "layers": "after the first two scales",
        },
        passes=1,
        gradients=0,
    )(on_scales(build))
