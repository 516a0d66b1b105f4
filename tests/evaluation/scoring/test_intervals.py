"""Resampling against Student's interval, SciPy's bootstrap, a slow double loop and known truths."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.scoring.contributions import area_contributions, information_contributions
from evaluation.scoring.intervals import CrossedBootstrap, symmetric_interval
from evaluation.scoring.scores import combined_score, information_score, t_interval


def crossed(rng, *, scores, seeds, images, seed_sd, image_sd, rest_sd):
    """Scores around 0 with known spreads over seeds, images, and both together."""
    return (
        seed_sd * rng.standard_normal((scores, seeds, 1))
        + image_sd * rng.standard_normal((scores, 1, images))
        + rest_sd * rng.standard_normal((scores, seeds, images))
    )


def half_width(deviations):
    return symmetric_interval(0.0, deviations)[1]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_spread_over_images_the_interval_is_student_s(seeds):
    values = np.random.default_rng(0).normal(0.6, 0.01, seeds)
    contributions = np.repeat(values[None, :, None], 2, axis=2)
    found = CrossedBootstrap(2, resamples=200_000).deviations(contributions, range(seeds))[0]
    low, high = t_interval(values)
    assert half_width(found) == pytest.approx((high - low) / 2, rel=0.03)


def test_without_spread_over_seeds_the_interval_is_scipy_s_bootstrap_over_images():
    scores = np.random.default_rng(0).random(300) ** 2
    contributions = np.repeat(scores[None, None], 3, axis=1)
    found = CrossedBootstrap(300).deviations(contributions, range(3))[0]
    theirs = stats.bootstrap(
        (scores,), np.mean, method="percentile", random_state=1
    ).confidence_interval
    assert half_width(found) == pytest.approx((theirs.high - theirs.low) / 2, rel=0.04)


def test_a_slow_double_loop_finds_the_same_spread():
    rng = np.random.default_rng(0)
    seeds, images = 4, 60
    values = crossed(
        rng, scores=1, seeds=seeds, images=images, seed_sd=0.05, image_sd=0.3, rest_sd=0.3
    )[0]
    mean, of_seed, of_image = values.mean(), values.mean(axis=1), values.mean(axis=0)
    rest = sum(
        (values[s, n] - of_seed[s] - of_image[n] + mean) ** 2
        for s in range(seeds)
        for n in range(images)
    ) / ((seeds - 1) * (images - 1) * seeds)
    kept = math.sqrt(max(0.0, 1 - rest / np.var(of_image, ddof=1)))
    slow = []
    for _ in range(20_000):
        moved = sum(rng.standard_normal() * (of_seed[s] - mean) for s in range(seeds))
        scale = math.sqrt((seeds - 1) / rng.chisquare(seeds - 1))
        drawn = rng.integers(images, size=images)
        slow.append(
            moved / math.sqrt(seeds * (seeds - 1)) * scale + kept * (of_image[drawn].mean() - mean)
        )
    found = CrossedBootstrap(images, resamples=20_000).deviations(values[None], range(seeds))[0]
    for share in (0.5, 0.8, 0.95):
        expected = np.quantile(np.abs(slow), share)
        assert np.quantile(np.abs(found), share) == pytest.approx(expected, rel=0.04)


# The standard error of a coverage of 95 % over 1,500 trials is 0.6 points. With spread in both
# directions the interval is known to be wide, as the Behrens-Fisher interval is.
@pytest.mark.parametrize(
    ("spreads", "lowest", "highest"),
    [
        ((1.0, 0.0, 0.0), 0.935, 0.965),
        ((0.0, 1.0, 0.0), 0.93, 0.965),
        ((0.03, 0.3, 0.3), 0.94, 0.985),
    ],
    ids=["seeds alone", "images alone", "both, and their interaction"],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(spreads, lowest, highest):
    seed_sd, image_sd, rest_sd = spreads
    rng = np.random.default_rng(7)
    values = crossed(
        rng,
        scores=1500,
        seeds=3,
        images=200,
        seed_sd=seed_sd,
        image_sd=image_sd,
        rest_sd=rest_sd,
    )
    moved = CrossedBootstrap(200, resamples=4000).deviations(values, range(3))
    halves = np.quantile(np.abs(moved), 0.95, axis=1)
    covered = (np.abs(values.mean(axis=(1, 2))) <= halves).mean()
    assert lowest <= covered <= highest


def test_right_and_wrong_answers_of_two_equal_methods_are_told_apart_one_time_in_twenty():
    rng = np.random.default_rng(3)
    trials, seeds, images = 600, 3, 300
    skill = rng.standard_normal((trials, 1, images))

    def answers():
        noise = 0.5 * rng.standard_normal((trials, seeds, images))
        return skill + noise + 0.05 * rng.standard_normal((trials, seeds, 1)) > 0

    difference = answers().astype(float) - answers()
    moved = CrossedBootstrap(images, resamples=4000).deviations(difference, range(seeds))
    halves = np.quantile(np.abs(moved), 0.95, axis=1)
    assert 0.93 <= (np.abs(difference.mean(axis=(1, 2))) <= halves).mean() <= 0.985


def test_what_one_image_does_at_one_seed_counts_once():
    seeds, images = 30, 100
    rest = np.random.default_rng(0).standard_normal((200, seeds, images))
    moved = CrossedBootstrap(images, resamples=2000).deviations(rest, range(seeds))
    # Student's scale with 29 degrees of freedom has a variance of 29/27.
    expected = math.sqrt(1 / (seeds * images) * 29 / 27)
    assert np.sqrt((moved**2).mean()) == pytest.approx(expected, rel=0.12)


def test_methods_are_paired():
    rng = np.random.default_rng(0)
    first, second = (
        rng.standard_normal((1, 3, 1)) + rng.standard_normal((1, 1, 50)) for _ in range(2)
    )
    bootstrap = CrossedBootstrap(50, resamples=200)
    apart = bootstrap.deviations(first, (0, 1, 2)) - bootstrap.deviations(second, (0, 1, 2))
    np.testing.assert_allclose(bootstrap.deviations(first - second, (0, 1, 2)), apart, atol=1e-6)
    # The seeds by name, not by place.
    swapped = bootstrap.deviations(first[:, ::-1], (2, 1, 0))
    np.testing.assert_allclose(swapped, bootstrap.deviations(first, (0, 1, 2)), atol=1e-6)


def test_the_same_seed_gives_the_same_resamples():
    values = np.random.default_rng(0).random((2, 3, 40))
    first, second, other = (
        CrossedBootstrap(40, resamples=700, seed=seed).deviations(values, (0, 1, 2))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.isclose(first, other).any()


def test_what_cannot_be_resampled_is_refused():
    bootstrap = CrossedBootstrap(5, resamples=10)
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4\); expected \(scores, 2 seeds, 5 im"):
        bootstrap.deviations(np.zeros((1, 2, 4)), (0, 1))
    with pytest.raises(ValueError, match="one seed has no spread; expected at least 2 seeds"):
        bootstrap.deviations(np.zeros((1, 1, 5)), (0,))
    with pytest.raises(ValueError, match="1 images and 10 resamples"):
        CrossedBootstrap(1, resamples=10)


def answers(rng, accuracy):
    return rng.random((3, 2, 400)) < accuracy


def test_parts_of_images_add_up_to_the_scores():
    rng = np.random.default_rng(0)
    names = ("kar", "roar", "random_kar", "random_roar")
    right = {name: answers(rng, a) for name, a in zip(names, (0.6, 0.4, 0.5, 0.55), strict=True)}
    area = area_contributions(kar=right["kar"], roar=right["roar"])
    information = information_contributions(**right)
    for seed in range(2):
        of_seed = {name: bits[:, seed].mean(axis=1) for name, bits in right.items()}
        expected = combined_score(kar=of_seed["kar"], roar=of_seed["roar"])
        assert area[seed].mean() == pytest.approx(expected)
        assert information[seed].mean() == pytest.approx(information_score(**of_seed))


def test_information_parts_say_what_other_images_would_have_given():
    rng = np.random.default_rng(1)
    names = ("kar", "roar", "random_kar", "random_roar")
    right = {name: answers(rng, a) for name, a in zip(names, (0.6, 0.4, 0.5, 0.55), strict=True)}
    parts = information_contributions(**right)[0]
    for _ in range(20):
        drawn = rng.integers(400, size=400)
        redrawn = information_score(
            **{name: bits[:, 0, drawn].mean(axis=1) for name, bits in right.items()}
        )
        # The standard error of the score is about 0.1; what is beyond the first order is less.
        assert parts[drawn].mean() == pytest.approx(redrawn, abs=0.012)


def test_an_accuracy_of_0_has_no_information_score():
    right = np.ones((1, 2, 3), dtype=bool)
    with pytest.raises(ValueError, match="an accuracy is 0"):
        information_contributions(kar=right, roar=~right, random_kar=right, random_roar=right)
    with pytest.raises(ValueError, match="expected kar, roar or both"):
        area_contributions()
