"""The scores against the paper's own tables, and the interval against a textbook's t values."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.scoring.scores import (
    combined_score,
    difference_score,
    information_score,
    kar_score,
    rescaled_accuracy,
    roar_score,
    t_interval,
)

PAPER = Path(__file__).parents[3] / "reports" / "paper"
TABLE1 = pd.read_csv(PAPER / "table1_combined_scores.csv").set_index("statistic")
TABLE4 = pd.read_csv(PAPER / "table4_layer_scores.csv").set_index(["dataset", "statistic"]) / 100
TABLE5 = pd.read_csv(PAPER / "table5_input_scores.csv").set_index("method") / 100

# Sums of Table 5's rows added by hand, two decimals as Table 2: KAR, ROAR, SUM.
SUMS = {
    "Rand": (3.43, -3.43, 0.00),
    "Gradient": (3.57, -3.54, 0.04),
    "Gradient -w- SmoothGrad Sq.": (3.52, -2.12, 1.41),
    "SMOE Scale + Prior Layer Weights": (3.61, -2.31, 1.30),
    "SMOE Scale + Layer Weights [1,...,5]": (3.62, -2.34, 1.28),
    "SMOE Scale + Layer Weights [1,...,1]": (3.62, -2.46, 1.15),
}

# The paper contradicts itself: these seven ImageNet difference scores of Table 1 (first number) do
# not follow from Table 4, of which Eq 8 makes the second; two of them by a rounding step alone.
# Table 1's information scores of the same rows do follow from the same accuracies.
IMAGENET_ERRATA = {
    "SMOE Scale": (1.70, 1.7058),
    "Trunc Normal Ent": (1.56, 1.5508),
    "Shannon Ent": (1.61, 1.5496),
    "Trunc Normal Std": (1.51, 1.5518),
    "Trunc Normal Mean": (1.38, 1.5016),
    "Log Normal ENT": (1.16, 1.3637),
    "Log Normal Mean": (1.46, 1.0855),
}
# Half a unit of the last printed digit.
ROUNDING = 0.0051


def layer_scores(dataset: str, statistic: str) -> dict[str, list[float]]:
    rows = {"": TABLE4.loc[(dataset, statistic)], "random_": TABLE4.loc[(dataset, "Random")]}
    return {
        f"{prefix}{mode}": row.filter(like=f"{mode}_").tolist()
        for prefix, row in rows.items()
        for mode in ("kar", "roar")
    }


@pytest.mark.parametrize("method", SUMS)
def test_sums_of_table_5(method: str) -> None:
    kar = TABLE5.loc[method].filter(like="kar_").tolist()
    roar = TABLE5.loc[method].filter(like="roar_").tolist()
    sums = kar_score(kar), roar_score(roar), combined_score(kar=kar, roar=roar)
    assert sums == pytest.approx(SUMS[method], abs=ROUNDING)


def test_random_of_table_5_is_its_own_dual() -> None:
    random = TABLE5.loc["Rand"]
    assert random.filter(like="kar_").tolist() == random.filter(like="roar_").tolist()[::-1]


@pytest.mark.parametrize("statistic", TABLE1.index)
@pytest.mark.parametrize("dataset", ["Places", "COWC"])
def test_difference_scores_of_table_1(dataset: str, statistic: str) -> None:
    expected = TABLE1.loc[statistic, f"difference_{dataset.lower()}"]
    assert difference_score(**layer_scores(dataset, statistic)) == pytest.approx(
        expected, abs=ROUNDING
    )


@pytest.mark.parametrize("statistic", TABLE1.index)
def test_difference_scores_of_table_1_on_imagenet(statistic: str) -> None:
    printed = TABLE1.loc[statistic, "difference_imagenet"]
    score = difference_score(**layer_scores("ImageNet", statistic))
    if statistic in IMAGENET_ERRATA:
        assert (printed, score) == pytest.approx(IMAGENET_ERRATA[statistic], abs=1e-9)
        assert abs(score - printed) > ROUNDING
    else:
        assert score == pytest.approx(printed, abs=ROUNDING)


@pytest.mark.parametrize("statistic", TABLE1.index)
def test_information_scores_of_table_1_take_the_natural_logarithm(statistic: str) -> None:
    printed = TABLE1.loc[statistic, "information_imagenet"]
    scores = layer_scores("ImageNet", statistic)
    assert information_score(**scores) == pytest.approx(printed, abs=ROUNDING)
    assert abs(information_score(**scores, log_base=2) - printed) > 0.2


def test_scores_of_the_random_control_are_zero() -> None:
    random = layer_scores("COWC", "Random")
    assert difference_score(**random) == pytest.approx(0, abs=1e-12)
    assert information_score(**random) == pytest.approx(0, abs=1e-12)


def test_information_score_at_zero_accuracy_is_its_limit_or_an_error() -> None:
    # rho log(z / rho) goes to 0 with rho; kar adds 0.5 log(1 / 0.5).
    score = information_score(kar=[1.0], roar=[0.0], random_kar=[0.5], random_roar=[0.5])
    assert score == pytest.approx(0.5 * np.log(2))
    with pytest.raises(ValueError, match="infinite"):
        information_score(kar=[0.0], roar=[0.5], random_kar=[0.5], random_roar=[0.5])


def test_level_runs_from_chance_to_unmasked() -> None:
    assert rescaled_accuracy(0.75, unmasked=0.75, chance=0.1) == 1
    assert rescaled_accuracy(0.1, unmasked=0.75, chance=0.1) == 0
    assert rescaled_accuracy(0.332, unmasked=0.75, chance=0.1) == pytest.approx(0.232 / 0.65)
    with pytest.raises(ValueError, match="not above chance"):
        rescaled_accuracy(0.1, unmasked=0.1, chance=0.1)


@pytest.mark.parametrize(
    ("seeds", "quantile"), [(2, 12.7062), (3, 4.3027), (5, 2.7764)]
)  # two-sided 95 % quantiles of Student's t as printed in tables
def test_t_interval_is_the_textbook_one(seeds: int, quantile: float) -> None:
    values = np.random.default_rng(seeds).normal(0.6, 0.005, seeds)
    mean = sum(values) / seeds
    deviation = (sum((x - mean) ** 2 for x in values) / (seeds - 1)) ** 0.5
    half = quantile * deviation / seeds**0.5
    assert t_interval(values) == pytest.approx((mean - half, mean + half), rel=1e-4)


def test_t_interval_of_one_seed_is_unknown_and_of_equal_seeds_has_no_width() -> None:
    assert t_interval([0.6]) is None
    assert t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


GOOD = {"kar": [0.5], "roar": [0.5], "random_kar": [0.5], "random_roar": [0.5]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kar_score([]), "no accuracy"),
        (lambda: kar_score([63.5]), "holds 63.5"),
        (lambda: roar_score([float("nan")]), "holds nan"),
        (lambda: difference_score(**(GOOD | {"kar": [0.5, 0.5]})), "2 accuracies and random_kar 1"),
        (lambda: information_score(**GOOD, log_base=1), "log_base is 1"),
        (lambda: t_interval([]), "t_interval of"),
        (lambda: t_interval([0.5, float("inf")]), "inf"),
        (lambda: t_interval([0.5, 0.6], confidence=95), "confidence is 95"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
