"""The sets of volumes and signals that are made from a seed."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.datasets.made.signals import CLASSES as WAVES
from evaluation.datasets.made.signals import WAVEFORMS, draw_signal, make_signals
from evaluation.datasets.made.solids import REACH, SOLIDS
from evaluation.datasets.made.volumes import CLASSES, draw_volume, make_volumes

MAKERS = {"volumes": (make_volumes, 16, 5), "signals": (make_signals, 128, 4)}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids_have_one_volume_and_reach_no_farther(name):
    side = np.linspace(-1.1, 1.1, 111)
    x, y, z = np.meshgrid(side, side, side, indexing="ij")
    inside = SOLIDS[name](x, y, z)
    assert inside.mean() * 2.2**3 == pytest.approx(1.0, abs=0.03)
    assert np.sqrt(x**2 + y**2 + z**2)[inside].max() <= REACH


@pytest.mark.parametrize("name", WAVEFORMS)
def test_waveforms_have_one_power(name):
    at = np.linspace(0, 1, 4001)
    assert (WAVEFORMS[name](at, 7.0) ** 2).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_depends_on_its_number_and_the_seed_alone(name):
    make, size, classes = MAKERS[name]
    train, test = make(train=7, test=3, size=size)
    fewer, none = make(train=4, test=0, size=size)
    assert np.array_equal(fewer.images, train.images[:4])
    assert np.array_equal(fewer.object_masks, train.object_masks[:4])
    assert none.images.shape == (0, *train.images.shape[1:])
    assert not np.array_equal(train.images[:3], test.images)
    assert not np.array_equal(make(train=4, test=0, size=size, seed=1)[0].images, fewer.images)
    assert train.labels.tolist() == [i % classes for i in range(7)]
    assert train.images.dtype == np.uint8
    assert train.object_masks.shape == train.images.shape[:-1]


@pytest.mark.parametrize("draw", [draw_volume, draw_signal])
def test_the_mask_is_all_that_the_object_changes(draw):
    for index in range(8):
        with_it, mask = draw("train", index, size=128 if draw is draw_signal else 20, seed=3)
        without, same = draw("train", index, size=len(mask), seed=3, with_object=False)
        assert np.array_equal(mask, same)
        changed = with_it != without
        changed = changed.any(-1) if changed.ndim > mask.ndim else changed
        assert not (changed & ~mask).any()
        assert (changed & mask).sum() > 0.7 * mask.sum()


def test_objects_lie_inside_and_towards_the_corners():
    train, _ = make_volumes(train=60, test=0, size=24)
    for mask in train.object_masks:
        assert not any(mask.take(edge, axis).any() for axis in range(3) for edge in (0, -1))
        places = np.argwhere(mask).mean(0) - 11.5
        assert (abs(places) > 3).all()
    assert set(CLASSES) == set(SOLIDS)
    assert set(WAVES) == set(WAVEFORMS)


@pytest.mark.parametrize("name", MAKERS)
def test_arguments_are_checked(name):
    make, size, _ = MAKERS[name]
    with pytest.raises(ValueError, match=f"{make.__name__}: size must be at least {size}, got 4"):
        make(size=4)
    with pytest.raises(ValueError, match="train must be at least 0, got -1"):
        make(train=-1)
    with pytest.raises(TypeError, match=r"seed must be an integer, got 0\.5"):
        make(seed=0.5)
