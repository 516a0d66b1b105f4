"""Laying of maps on the image, against a slow rewrite that goes pixel by pixel."""

import math

import pytest
import torch

from fastsal.geometry.placement import Placement, Points, View
from fastsal.maps.combination import combine
from fastsal.maps.placing import by_image, placed
from fastsal.maps.resize import upsample


def line(places, seen, length):
    """For each pixel its two neighbours and their shares, [] for a pixel that is not shown."""
    order = sorted(range(len(places)), key=places.__getitem__)
    sides = [places[index] for index in order]
    found = []
    for pixel in range(length):
        centre = pixel + 0.5
        if not seen[0] <= centre <= seen[1]:
            found.append([])
        elif centre <= sides[0]:
            found.append([(order[0], 1.0)])
        elif centre >= sides[-1]:
            found.append([(order[-1], 1.0)])
        else:
            after = next(index for index, side in enumerate(sides) if side > centre)
            share = (centre - sides[after - 1]) / (sides[after] - sides[after - 1])
            found.append([(order[after - 1], 1 - share), (order[after], share)])
    return found


def slow(maps, placement, size):
    images = maps.reshape(-1, placement.blocks, *maps.shape[1:])
    result = torch.zeros(len(images), *size, dtype=torch.float64)
    for number, image in enumerate(images):
        shown = torch.zeros(size, dtype=torch.float64)
        for view in placement.views:
            if view.image not in (None, number):
                continue
            rows = line(view.rows, view.seen[0], size[0])
            columns = line(view.columns, view.seen[1], size[1])
            for y in range(size[0]):
                for x in range(size[1]):
                    if rows[y] and columns[x]:
                        shown[y, x] += 1
                        result[number, y, x] += sum(
                            a * b * image[view.block, row, column].item()
                            for row, a in rows[y]
                            for column, b in columns[x]
                        )
        result[number] /= shown.clamp_min(1)
    return result


def evenly(first, last, count):
    step = (last - first) / count
    return tuple(first + (index + 0.5) * step for index in range(count))


SIZE = (12, 20)
WHOLE = ((0.0, 12.0), (0.0, 20.0))
UNEVEN = (0.7, 2.0, 2.5, 6.0, 9.5, 13.0, 19.0)
PLACEMENTS = {
    "even": Placement((View(0, evenly(0, 12, 4), evenly(0, 20, 7), WHOLE),)),
    "crop": Placement((View(0, evenly(3, 9, 4), evenly(5, 19, 7), ((3, 9), (5, 19))),)),
    "mirror": Placement((View(0, evenly(0, 12, 4), evenly(0, 20, 7)[::-1], WHOLE),)),
    "padded": Placement((View(0, evenly(-4, 12, 4), evenly(0, 35, 7), ((-4, 12), (0, 35))),)),
    "uneven": Placement((View(0, (1.0, 2.0, 6.5, 9.0), UNEVEN, WHOLE),)),
    "valid": Placement((View(0, (3.5, 4.5, 5.5, 6.5), evenly(4, 16, 7), WHOLE),)),
    "one row": Placement((View(0, (6.0,), evenly(0, 20, 7), WHOLE),)),
    "crops of a batch": Placement(
        (
            View(0, evenly(0, 8, 4), evenly(0, 14, 7), ((0, 8), (0, 14))),
            View(1, evenly(4, 12, 4), evenly(6, 20, 7), ((4, 12), (6, 20))),
        ),
        blocks=2,
    ),
    "mirror added": Placement(
        (
            View(0, evenly(0, 12, 4), evenly(0, 20, 7), WHOLE),
            View(0, evenly(0, 12, 4), evenly(0, 20, 7)[::-1], WHOLE),
        )
    ),
    "by image": Placement(
        (
            View(0, evenly(0, 8, 4), evenly(0, 14, 7), ((0, 8), (0, 14)), image=0),
            View(0, evenly(4, 12, 4), evenly(6, 20, 7), ((4, 12), (6, 20)), image=1),
        )
    ),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_maps_are_laid_as_pixel_by_pixel(name):
    placement = PLACEMENTS[name]
    height = len(placement.views[0].rows)
    maps = torch.rand(2 * placement.blocks, height, 7, generator=torch.Generator().manual_seed(0))
    found = placed(maps, placement, SIZE)
    assert torch.allclose(found.double(), slow(maps, placement, SIZE), atol=1e-6)


def test_an_even_placement_over_the_whole_image_is_the_plain_stretch():
    maps = torch.rand(3, 5, 7, dtype=torch.float64)
    for size in ((10, 14), (33, 50), (5, 7), (224, 224)):
        whole = ((0.0, size[0]), (0.0, size[1]))
        view = View(0, evenly(0, size[0], 5), evenly(0, size[1], 7), whole)
        found = placed(maps, Placement((view,)), size)
        assert torch.allclose(found, upsample(maps, size)[:, 0], atol=1e-9)


def test_scales_that_are_not_moved_are_combined_bit_for_bit_as_before():
    maps = [torch.rand(2, 4, 4), torch.rand(2, 2, 2)]
    plain = combine(maps, [1, 2], (8, 8))
    assert torch.equal(combine(maps, [1, 2], (8, 8), placements=[None, None]), plain)
    assert torch.equal(placed(maps[0], None, (8, 8)), upsample(maps[0], (8, 8))[:, 0])


def test_what_was_never_seen_has_no_salience():
    view = View(0, evenly(4, 8, 2), evenly(5, 15, 5), ((4, 8), (5, 15)))
    found = placed(torch.full((1, 2, 5), 0.5), Placement((view,)), SIZE)
    seen = torch.zeros(SIZE, dtype=torch.bool)
    seen[4:8, 5:15] = True
    assert torch.equal(found[0] == 0, ~seen)
    assert torch.equal(found[0, seen], torch.full((40,), 0.5))


def test_a_pixel_that_some_views_show_has_the_mean_of_those_alone():
    left = View(0, evenly(0, 12, 2), evenly(0, 12, 2), ((0, 12), (0, 12)))
    right = View(1, evenly(0, 12, 2), evenly(8, 20, 2), ((0, 12), (8, 20)))
    maps = torch.stack([torch.full((2, 2), 0.2), torch.full((2, 2), 0.6)])
    found = placed(maps, Placement((left, right), blocks=2), SIZE)[0]
    for columns, value in ((slice(0, 8), 0.2), (slice(8, 12), 0.4), (slice(12, 20), 0.6)):
        assert torch.allclose(found[:, columns], torch.tensor(value))


def test_maps_of_a_batch_in_blocks_are_put_image_by_image():
    views = (View(0, (0.5,), (0.5,), WHOLE), View(1, (0.5,), (0.5,), WHOLE))
    maps = torch.arange(6.0)[:, None, None]
    blocks = by_image(maps, Placement(views, 2))[:, 0, 0].tolist()
    assert blocks == [0, 3, 1, 4, 2, 5]
    assert torch.equal(by_image(maps, Placement(views, 2, interleaved=True)), maps)


def turned(angle, count, pitch, centre):
    """The places of a grid that is turned about a pixel."""
    offset = (torch.arange(count) - (count - 1) / 2) * pitch
    down, across = torch.meshgrid(offset, offset, indexing="ij")
    cosine, sine = math.cos(angle), math.sin(angle)
    rows = centre[0] + cosine * down - sine * across
    columns = centre[1] + sine * down + cosine * across
    return rows, columns


@pytest.mark.parametrize("degrees", [0, 10, 30, 45, 77])
@pytest.mark.parametrize("pitch", [0.6, 1.0, 3.0])
def test_single_locations_are_laid_where_they_are(degrees, pitch):
    size = (48, 64)
    rows, columns = turned(math.radians(degrees), 12, pitch, (20.0, 30.0))
    # A ramp is nearly its own interpolation.
    values = rows * 0.01 + columns * 0.02
    view = View(0, (), (), WHOLE, points=Points(rows, columns, pitch))
    found = placed(values[None].double(), Placement((view,)), size)[0]
    centres = torch.cartesian_prod(torch.arange(48) + 0.5, torch.arange(64) + 0.5)
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    nearest = torch.cdist(centres.double(), places.double()).amin(1).unflatten(0, size)
    assert torch.equal(found > 0, nearest <= 0.75 * max(pitch, 1.0))
    # No hole between the locations.
    inside = (nearest < 0.7 * pitch) & (found == 0)
    assert not inside.any()
    ramp = (centres @ torch.tensor([0.01, 0.02])).unflatten(0, size)
    shown = nearest < 0.5 * pitch
    assert (found[shown] - ramp[shown]).abs().max() <= 0.03 * max(pitch, 1.0)


def test_locations_in_any_order_are_laid_each_on_its_pixel():
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    rows = (order // 10 + 0.5).unflatten(0, (8, 10))
    columns = (order % 10 + 0.5).unflatten(0, (8, 10))
    values = torch.rand(2, 8, 10)
    view = View(0, (), (), WHOLE, points=Points(rows, columns, 1.0))
    found = placed(values, Placement((view,)), (8, 10))
    right = torch.empty(2, 80)
    right[:, order] = values.flatten(1)
    assert torch.allclose(found.flatten(1), right)
