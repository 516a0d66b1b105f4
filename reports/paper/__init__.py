"""The paper's tables, as CSV files beside this module.

Mundhenk, Chen and Friedland, "Efficient Saliency Maps for Explainable AI" (arXiv 1911.11293).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

__all__ = ["DATASETS", "ERRATA", "TITLES", "table_1", "table_3", "table_4", "table_5", "table_6"]

# The paper's names of the statistics in the registry.
TITLES: dict[str, str] = {
    "random": "Random",
    "smoe_scale": "SMOE Scale",
    "std": "STD",
    "truncnormal_entropy": "Trunc Normal Ent",
    "shannon_entropy": "Shannon Ent",
    "truncnormal_std": "Trunc Normal Std",
    "truncnormal_mean": "Trunc Normal Mean",
    "mean": "Mean",
    "lognormal_entropy": "Log Normal ENT",
    "lognormal_mean": "Log Normal Mean",
}
DATASETS = ("ImageNet", "Places", "COWC")

# Statistics whose difference score on ImageNet in Table 1 does not follow from Table 4; the first
# two differ by rounding alone.
ERRATA = (
    "SMOE Scale",
    "Trunc Normal Ent",
    "Shannon Ent",
    "Trunc Normal Std",
    "Trunc Normal Mean",
    "Log Normal ENT",
    "Log Normal Mean",
)

_HERE = Path(__file__).parent


@cache
def table_1() -> pd.DataFrame:
    """Table 1: difference scores of three data sets and information scores of one, by statistic.

    >>> float(table_1().loc["SMOE Scale", "difference_imagenet"])
    1.7
    """
    frame: pd.DataFrame = pd.read_csv(_HERE / "table1_combined_scores.csv", index_col="statistic")
    return frame


@cache
def table_4() -> pd.DataFrame:
    """Table 4: accuracies in [0, 1] by data set and statistic; columns ``kar_l1`` to ``roar_l5``.

    >>> float(table_4().loc[("ImageNet", "Random"), "kar_l1"])
    0.6642
    """
    file = _HERE / "table4_layer_scores.csv"
    frame: pd.DataFrame = pd.read_csv(file, index_col=["dataset", "statistic"])
    shares: pd.DataFrame = frame.div(100).round(6)
    return shares


@cache
def table_3() -> pd.DataFrame:
    """Table 3: pairs of activations and their SMOE Scale, to three digits.

    >>> float(table_3().loc[0, "smoe_scale"])
    0.064
    """
    frame: pd.DataFrame = pd.read_csv(_HERE / "table3_smoe_examples.csv")
    return frame


@cache
def table_5() -> pd.DataFrame:
    """Table 5: accuracies in [0, 1] by method; columns ``kar_10`` to ``roar_90``.

    >>> float(table_5().loc["Rand", "kar_10"])
    0.6353
    """
    frame: pd.DataFrame = pd.read_csv(_HERE / "table5_input_scores.csv", index_col="method")
    shares: pd.DataFrame = frame.div(100).round(6)
    return shares


@cache
def table_6() -> pd.DataFrame:
    """Table 6: operations of each step of SMOE Scale on ResNet-50's scales at 224x224.

    >>> int(table_6()["smoe_ops"].sum())
    9249093
    """
    frame: pd.DataFrame = pd.read_csv(_HERE / "table6_flops_resnet50.csv", index_col="layer")
    return frame
