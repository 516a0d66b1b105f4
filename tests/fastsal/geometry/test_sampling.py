"""Fields between their locations and beyond them."""

import torch

from fastsal.geometry import fields as f
from fastsal.geometry.fields import positions, with_padding
from fastsal.geometry.sampling import padded, sampled


def of_image(height, width, images=1):
    return f.start(torch.zeros(images, 3, height, width), 0, (height, width))


def test_fractional_indices_are_interpolated():
    image = of_image(1, 5)
    at = torch.tensor([-1.0, 0.25, 3.5, 9.0])
    assert positions(sampled(image, 4, at))[1, 0, 0, 0].tolist() == [-0.5, 0.75, 4.0, 9.5]


def test_padding_comes_from_no_pixel():
    wide = padded(of_image(2, 2).expand(-1, 1, 1, 2, 2), (1, 0), "constant")
    assert positions(wide)[1, 0, 0, 0].isnan().tolist() == [True, False, False]
    assert with_padding(wide)[:2, 0, 0, 0].tolist() == [[0.5] * 3, [-0.5, 0.5, 1.5]]


def test_the_places_of_padding_go_on_on_all_sides():
    wide = padded(of_image(2, 3).expand(-1, 1, 1, 2, 3), (1, 2, 3, 0), "constant")
    rows, columns, _ = with_padding(wide)[:, 0, 0]
    assert torch.equal(rows, (torch.arange(5.0) - 2.5)[:, None].expand(5, 6))
    assert torch.equal(columns, (torch.arange(6.0) - 0.5).expand(5, 6))
