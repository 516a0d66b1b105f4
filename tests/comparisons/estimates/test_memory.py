"""The memory that a training keeps on its device is what was said before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from comparisons.estimates.memory import device_bytes, memory_words
from comparisons.plans.plan import Plan
from evaluation.datasets.load import Extent
from evaluation.masking.levels import FILLS, Masking
from evaluation.masking.resident import stored_bytes
from evaluation.masking.variants import UNITS, Variant
from evaluation.masking.views import InputView

PLAN = Plan("shapes", "resnet9", ("random",))
EXTENT = Extent("shapes", 8, 30, 10, (6, 5), True)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("unit", UNITS)
def test_it_is_that_of_the_arrays(fill, unit, tmp_path):
    views = []
    for images in (30, 10):
        pixels = np.zeros((images, 6, 5, 3), np.uint8)
        levels = np.zeros((images, 6, 5 * (3 if unit == "element" else 1)), np.uint8)
        levels[:, 0] = 1  # kept, or nothing could be filled from
        view = InputView(
            pixels, (0.5,) * 3, (0.25,) * 3, levels, Masking("roar", 0.5, (0.5,), fill)
        )
        views.append(view.filled(0, tmp_path))
    said = device_bytes(replace(PLAN, fill=fill, unit=unit), EXTENT, (6, 5))
    assert said == stored_bytes(*views)


def test_it_is_that_of_the_largest_variant():
    several = replace(PLAN, variants=(Variant(fill="noisy-linear"),))
    assert device_bytes(several, EXTENT, (6, 5)) == 6 * 40 * 30
    assert device_bytes(PLAN, EXTENT, (6, 5)) == 4 * 40 * 30


@pytest.mark.parametrize(
    ("device", "free", "said"),
    [
        ("cuda", 25 * 10**9, "12.00 GB of 25.0 GB free on cuda: uploaded once"),
        ("cpu", 25 * 10**9, "12.00 GB of 25.0 GB free on cpu: the pages of their files"),
        ("cuda", 23 * 10**9, "of 23.0 GB free on cuda, more than 50 % of it: they are read batch"),
        ("cuda", None, "12.00 GB; where that is more than 50 % of cuda's free memory, they are"),
    ],
)
def test_words(device, free, said):
    assert said in memory_words(12 * 10**9, device, free)
