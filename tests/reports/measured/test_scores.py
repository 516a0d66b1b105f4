"""Scores image by image against SciPy, and their sentences against planted differences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from reports.measured.scores import SCORES, scored
from reports.measured.sentences import sentences
from reports.records.run import Method

IMAGES = 60
RNG = np.random.default_rng(0)
EASY = RNG.normal(0.4, 0.2, IMAGES)
# What each method adds to what all find easy.
GAINS = {"smoe-linear": 0.1, "gradcam": 0.3, "lafam": 0.1, "centre": 0.0, "random": -0.2}
GROUPS = {"smoe-linear": "smoe", "gradcam": "cam", "lafam": "activation"}
INSERTION = {name: EASY + gain + RNG.normal(0, 0.05, IMAGES) for name, gain in GAINS.items()}
DELETION = {name: 0.1 - gain + RNG.normal(0, 0.05, IMAGES) for name, gain in GAINS.items()}


def _cell(method: str, seed: int = 0, images: range = range(IMAGES), shift: float = 0.0) -> Any:
    return SimpleNamespace(
        id=f"{method}-{seed}",
        spec={"method": method, "seed": seed, "measure": "insertion-deletion"},
        history=[
            {
                "image": image,
                "insertion_area": INSERTION[method][image] + shift,
                "deletion_area": DELETION[method][image],
            }
            for image in images
        ],
    )


def _run(cells: list[Any]) -> Any:
    methods = {
        name: Method(name, name.title(), "", {}, GROUPS.get(name, "control")) for name in GAINS
    }
    return SimpleNamespace(cells=lambda _: cells, methods=methods)


@pytest.fixture(scope="module")
def found():
    return scored(_run([_cell(name) for name in GAINS]))


def test_scores_are_those_of_their_metrics(found):
    assert [each.score.key for each in found] == ["area", "insertion", "deletion"]
    for each, sign in zip(found, ((1, -1), (1, 0), (0, -1)), strict=True):
        for name, own in each.methods.items():
            expected = sign[0] * INSERTION[name] + sign[1] * DELETION[name]
            np.testing.assert_allclose(own.values, expected)
            low, high = stats.t.interval(0.95, IMAGES - 1, expected.mean(), stats.sem(expected))
            assert own.estimate.interval == pytest.approx((low, high))
        means = [own.values.mean() for own in each.methods.values()]
        assert means == sorted(means, reverse=True)


def test_differences_are_scipy_s_paired_tests_after_holm(found):
    area = found[0]
    pairs = {
        ("smoe-linear", "gradcam"), ("smoe-linear", "lafam"),
        *(("centre", name) for name in ("smoe-linear", "gradcam", "lafam")),
        *(("random", name) for name in ("smoe-linear", "gradcam", "lafam", "centre")),
    }  # fmt: skip
    assert {(reference, name) for reference, by in area.differences.items() for name in by} == pairs
    p = {
        (reference, name): stats.ttest_rel(
            INSERTION[name] - DELETION[name], INSERTION[reference] - DELETION[reference]
        ).pvalue
        for reference, name in pairs
    }
    # Holm's correction, step by step.
    largest = 0.0
    for rank, pair in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[pair]))
        difference = area.differences[pair[0]][pair[1]]
        assert difference.test.p == pytest.approx(p[pair])
        assert difference.test.adjusted == pytest.approx(largest)
        assert difference.told == (largest < 0.05)


def test_sentences_tell_what_was_planted(found):
    said = {each.score: each.text for each in sentences(_run([]), found)}
    text = said[SCORES[0].title]
    assert "The best of 3 methods is Gradcam" in text
    assert "Told above Smoe-Linear: Gradcam. Not told from Smoe-Linear: Lafam." in text
    assert "Told above the centre: Gradcam, Smoe-Linear, Lafam." in text
    assert "below" not in text


def test_images_that_a_method_lacks_are_left_out_of_its_difference():
    cells = [_cell("smoe-linear"), _cell("gradcam", images=range(10, 40))]
    area = scored(_run(cells))[0]
    values = [(INSERTION[name] - DELETION[name])[10:40] for name in ("gradcam", "smoe-linear")]
    found = area.differences["smoe-linear"]["gradcam"]
    assert found.estimate.mean == pytest.approx((values[0] - values[1]).mean())


def test_seeds_are_averaged_image_by_image():
    cells = [_cell("lafam"), _cell("centre"), _cell("centre", seed=1, shift=0.5)]
    insertion = {each.score.key: each for each in scored(_run(cells))}["insertion"]
    np.testing.assert_allclose(insertion.methods["centre"].values, INSERTION["centre"] + 0.25)
    assert insertion.methods["centre"].cells == ("centre-0", "centre-1")


def test_one_method_has_nothing_to_be_held_against():
    assert scored(_run([_cell("lafam")])) == []
