"""Claims checked on the paper's own tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from evaluation.scoring.scores import combined_score, kar_score
from fastsal import smoe_scale
from fastsal.maps.prior import PRIOR_WEIGHTS
from reports.analysis.layer_tables import printed
from reports.paper import DATASETS, table_1, table_3, table_4, table_5
from reports.records.run import Run
from reports.reproduction.claims import Claim, section

__all__ = ["ROUNDING", "nearest_prior"]

# Half a unit of the second decimal, and the rounding of the summed accuracies.
ROUNDING = 0.0051
_COLUMNS = range(1, 6)


@section("The paper's tables against each other")
def _tables(runs: Sequence[Run]) -> Iterator[Claim]:
    del runs
    examples = table_3()
    pairs = torch.tensor(examples[["value_a", "value_b"]].to_numpy())[..., None, None]
    found = smoe_scale(pairs).flatten().tolist()
    agreeing = sum(
        round(a, 3) == b for a, b in zip(found, examples["smoe_scale"].tolist(), strict=True)
    )
    yield _all_of("Table 3", "Eq 1 and 2 give the worked examples, to three digits", agreeing, 5)
    for dataset in DATASETS:
        table, column = printed(dataset), f"difference_{dataset.lower()}"
        made = {name: table.difference(name) for name in table.statistics}
        agreeing = sum(
            abs(score.mean - _table_1(name, column)) < ROUNDING
            for name, score in made.items()
            if score is not None
        )
        yield _all_of(
            "Tables 1 and 4, Eq 8",
            f"Difference scores on {dataset} follow from the accuracies",
            agreeing,
            len(made),
            "an erratum: Shannon Ent, Log Normal and Trunc Normal rows are 0.04 to 0.38 off"
            if agreeing < len(made)
            else "",
        )
    for base, name in ((2.0, "log2, as Eq 9 prints it"), (None, "the natural logarithm")):
        table = printed("ImageNet")
        scores = {row: table.information(row, base) for row in table.statistics}
        agreeing = sum(
            abs(score.mean - _table_1(row, "information_imagenet")) < ROUNDING
            for row, score in scores.items()
            if score is not None
        )
        yield _all_of(
            "Tables 1 and 4, Eq 9",
            f"Information scores on ImageNet follow from the accuracies, with {name}",
            agreeing,
            len(scores),
        )
    random = table_5().loc["Rand"]
    kar, roar = (random.filter(like=mode).tolist() for mode in ("kar_", "roar_"))
    agreeing = sum(a == b for a, b in zip(kar, reversed(roar), strict=True))
    yield _all_of("Table 5", "Random is its own dual: KAR at t is ROAR at 100 % - t", agreeing, 5)
    sums = {str(name): _sums(str(name)) for name in table_5().index}
    ours = [total for name, (_, total) in sums.items() if name.startswith("SMOE")]
    others = [total for name, (_, total) in sums.items() if "SmoothGrad" in name]
    yield Claim(
        "Table 5",
        "SUM of the best SMOE Scale less that of the best SmoothGrad-Squared, from the printed "
        "accuracies",
        "better",
        "more than",
        0.0,
        max(ours) - max(others),
        measured_on="Table 5 as printed",
        note="the gradient's SmoothGrad-Squared leads by its ROAR",
    )
    kar_lead = max(kar for name, (kar, _) in sums.items() if name.startswith("SMOE")) - max(
        kar for name, (kar, _) in sums.items() if "Gradient" in name or "Guided" in name
    )
    yield Claim(
        "Table 5",
        "KAR of the best SMOE Scale less that of the best gradient method, from the printed "
        "accuracies",
        "better",
        "more than",
        0.0,
        kar_lead,
        measured_on="Table 5 as printed",
        note="two pipelines: the gradient rows are Hooker et al.'s, with element masks and a "
        "second crop",
    )
    yield Claim(
        "prior layer weights",
        "The prior layer weights follow from the table of scores: largest difference to the "
        "nearest formula found",
        "0.18, 0.15, 0.37, 0.4, 0.72",
        "at most",
        0.005,
        max(abs(a - b) for a, b in zip(nearest_prior(), PRIOR_WEIGHTS, strict=True)),
        measured_on="Table 4, ImageNet, SMOE Scale",
        note="40,950 formulas were tried; the five numbers are taken as given",
    )


def nearest_prior() -> list[float]:
    r"""The layer weights of the formula that comes closest to the paper's five prior weights.

    $$\rho_l \log_2 \frac{z_l}{\rho_l} + \kappa_l \log_2 \frac{\kappa_l}{z_l}$$

    for SMOE Scale on ImageNet at layer l: rho and kappa are its ROAR and KAR accuracy, z the random
    control's. Eq 9 differs: it has z in front of the second logarithm.

    >>> [round(weight, 3) for weight in nearest_prior()]
    [0.192, 0.172, 0.344, 0.402, 0.695]
    """
    smoe, random = (
        {
            mode: np.array([table_4().loc[("ImageNet", name), f"{mode}_l{k}"] for k in _COLUMNS])
            for mode in ("kar", "roar")
        }
        for name in ("SMOE Scale", "Random")
    )
    roar = smoe["roar"] * np.log2(random["roar"] / smoe["roar"])
    kar = smoe["kar"] * np.log2(smoe["kar"] / random["kar"])
    weights: list[float] = (roar + kar).tolist()
    return weights


def _all_of(place: str, statement: str, agreeing: int, of: int, note: str = "") -> Claim:
    return Claim(
        place,
        statement,
        f"all {of}",
        "equal to",
        of,
        agreeing,
        unit=f"of {of}",
        paper=of,
        measured_on="as printed",
        note=note,
    )


def _table_1(statistic: str, column: str) -> float:
    return float(table_1()[column].to_dict()[statistic])


def _sums(method: str) -> tuple[float, float]:
    row = table_5().loc[method]
    kar, roar = (row.filter(like=mode).tolist() for mode in ("kar_", "roar_"))
    return kar_score(kar), combined_score(kar=kar, roar=roar)
