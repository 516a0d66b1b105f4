"""Statistics that reduce the channels of each location to one value."""

# Tables list the statistics in the order of their registration, which is that of these imports.
from fastsal.statistics.smoe import smoe_scale, smoe_scale_plain

# isort: split
from fastsal.statistics.moments import mean, std

# isort: split
from fastsal.statistics.distributions import (
    lognormal_entropy,
    lognormal_mean,
    normal_entropy,
    renyi_entropy,
    shannon_entropy,
    truncnormal_entropy,
    truncnormal_mean,
    truncnormal_std,
)
from fastsal.statistics.gamma import gamma_entropy, gamma_scale

# isort: split
from fastsal.statistics.centred import centred_smoe_scale

# isort: split
from fastsal.statistics.registry import (
    STATISTICS,
    Statistic,
    StatisticFunction,
    get_statistic,
    register_statistic,
    with_epsilon,
)

__all__ = [
    "STATISTICS",
    "Statistic",
    "StatisticFunction",
    "centred_smoe_scale",
    "gamma_entropy",
    "gamma_scale",
    "get_statistic",
    "lognormal_entropy",
    "lognormal_mean",
    "mean",
    "normal_entropy",
    "register_statistic",
    "renyi_entropy",
    "shannon_entropy",
    "smoe_scale",
    "smoe_scale_plain",
    "std",
    "truncnormal_entropy",
    "truncnormal_mean",
    "truncnormal_std",
    "with_epsilon",
]
