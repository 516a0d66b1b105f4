"""Arithmetic of fields of coordinates."""

import math

import pytest
import torch

from fastsal.geometry import fields as f


def of_image(height, width, images=1):
    return f.start(torch.zeros(images, 3, height, width), 0, (height, width))


def test_an_image_of_another_size_shows_the_same_scene():
    half = f.positions(f.start(torch.zeros(1, 1, 4, 6), 3, (8, 12)))
    assert half[0, 0, 0, :, 0].tolist() == [1.0, 3.0, 5.0, 7.0]
    assert half[1, 0, 0, 0].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    assert half[2].unique().tolist() == [3.0]


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ([0.5, 1.5, 2.5], 1.0),
        ([7.0, 5.0, 3.0], 2.0),
        # Half of the places are repeated, as by nearest-neighbour interpolation.
        ([1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 7.0, 7.0, 9.0, 9.0], 1.0),
        # Places at the edges are drawn together, as of windows that reach outside.
        ([4.0, 4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 46.0], 8.0),
        # The edge is repeated, as by padding; of what is repeated before, only as often.
        ([1.0, 1.0, 3.0, 5.0, 7.0, 7.0, 7.0], 2.0),
        ([1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 5.0], 1.0),
        # Every third place is left out, as by an interpolation to fewer.
        ([0.0, 1.0, 3.0, 4.0, 6.0, 7.0, 9.0, 10.0, 12.0], 1.5),
        # The edge is mirrored, then all is repeated.
        ([3.0, 3.0, 1.0, 1.0, 3.0, 3.0, 5.0, 5.0, 7.0, 7.0], 1.0),
        # Jumps, as where an image is rolled, are no steps.
        ([5.0, 6.0, 7.0, 0.0, 1.0, 2.0], 1.0),
        ([math.nan, 1.0, 2.0, math.nan], 1.0),
        ([3.0], 0.0),
        ([3.0, 3.0], 0.0),
    ],
)
def test_steps(places, step):
    assert f.step(torch.tensor(places)) == pytest.approx(step)


def test_lines_go_on_evenly_where_they_are_nowhere():
    line = torch.tensor([math.nan, math.nan, 4.0, 6.0, 8.0, math.nan])
    assert f.line_of(line, 0).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert f.line_of(torch.stack([line, line + 2]), 1).tolist()[2] == 5.0


def test_patches_are_one_place_and_mirrors_two():
    image = of_image(4, 16)
    patches = torch.cat([image[..., ::2], image[..., 1::2]], 2)
    (mean,) = f.without_dimension(patches, -3)
    assert f.positions(mean)[1, 0, 0, 0].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0]
    assert len(f.without_dimension(torch.cat([image, image.flip(4)], 2), -3)) == 2
