"""SMOE Scale and the other statistics over channels, as methods of the comparison."""

from __future__ import annotations

from torch import nn

from comparisons.budget import within_budget
from comparisons.methods.base import PAPER, Explain
from comparisons.methods.registry import method
from fastsal import SMOEScale, Statistic
from fastsal.networks.layers import LATE
from fastsal.statistics.registry import STATISTICS
from reports.paper import TITLES

__all__ = ["register_statistics"]

_SMOE = "smoe_scale"
# Statistics that are registered for late scales alone too: SMOE Scale and the cheapest two.
_LATE = (_SMOE, "mean", "std")


def register_statistics() -> None:
    """Register SMOE Scale by its weights and layers, then every other statistic."""
    for weights in ("equal", "linear", "prior"):
        _register_statistic(STATISTICS[_SMOE], weights)
    _register_statistic(STATISTICS[_SMOE], "linear", late=True)
    for statistic in STATISTICS.values():
        if statistic.name != _SMOE:
            _register_statistic(statistic, "linear")
            if statistic.name in _LATE:
                _register_statistic(statistic, "linear", late=True)
    # The statistics that Table 5 of the paper has beside SMOE Scale.
    for name in ("std", "truncnormal_entropy"):
        _register_statistic(STATISTICS[name], "prior")


def _register_statistic(statistic: Statistic, weights: str, *, late: bool = False) -> None:
    """Register a statistic of all scales, or of the late ones: the early hold most activations."""
    prefix = "smoe" if statistic.name == _SMOE else statistic.name
    title = TITLES.get(statistic.name, statistic.name.replace("_", " ").capitalize())
    layers = {"layers": "after the first two scales"} if late else {}

    def attributor_of(model: nn.Module) -> SMOEScale:
        read = LATE if late else None
        return SMOEScale(model, read, weights=weights, statistic=statistic)

    def scales(model: nn.Module) -> Explain:
        attributor = attributor_of(model)
        return lambda batch: attributor.maps(batch.inputs).stacked

    @method(
        f"{prefix}-{'late' if late else weights}",
        f"{title}, {'late scales' if late else f'{weights} weights'}",
        "smoe",
        PAPER if statistic.name == _SMOE else statistic.citation,
        {"weights": weights, "statistic": statistic.name, "normalize": "gaussian", **layers},
        passes=1,
        gradients=0,
        scales=None if late else scales,
    )
    def prepare(model: nn.Module) -> Explain:
        attributor = attributor_of(model)
        # Not `maps`, which also keeps the map of every scale and takes longer.
        explain = within_budget(
            lambda inputs, _: attributor.attribute(inputs, expand_channels=False)[:, 0]
        )
        return lambda batch: explain(batch.inputs, batch.target)
