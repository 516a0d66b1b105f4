"""Layouts and placements, against tensors that are rearranged by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import five_crop

from fastsal.geometry.following import Following
from fastsal.geometry.placement import Placement, View, of_parts

SIZE = (24, 40)


def located(network, images=2, size=SIZE, seed=0):
    torch.manual_seed(seed)
    image = torch.rand(images, 3, *size)
    following = Following()
    following.begin([image])
    with following, torch.no_grad():
        made = network(image)
    return made, following.located(made)


def features(x):
    torch.manual_seed(1)
    return nn.Conv2d(3, 5, 3, stride=2, padding=1)(x)


SCRAMBLED = torch.randperm(240, generator=torch.Generator().manual_seed(0))
REARRANGED = {
    "channels first": lambda x: x,
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "rows last": lambda x: x.permute(0, 1, 3, 2),
    "channels first of all": lambda x: x.permute(1, 0, 2, 3),
    "tokens": lambda x: x.flatten(2).mT,
    "tokens last": lambda x: x.flatten(2),
    "tokens before the batch": lambda x: x.flatten(2).permute(2, 0, 1),
    "tokens down the columns": lambda x: x.mT.flatten(2).mT,
    "tokens after others": lambda x: torch.cat([torch.zeros(2, 3, 5), x.flatten(2).mT], 1),
    "tokens in any order": lambda x: x.flatten(2).mT[:, SCRAMBLED],
}


@pytest.mark.parametrize("name", REARRANGED)
def test_dimensions_are_known_by_what_they_show(name):
    made, place = located(lambda x: REARRANGED[name](features(x)))
    right, _ = located(features)
    assert place.placement is None
    assert not place.doubt
    assert torch.equal(place.layout.channels_first(made), right)


ALL_OF_IT = ((12.0, 20.0), ((0.0, 24.0), (0.0, 40.0)))
POOLED = {
    "by adaptive pooling": (lambda x: F.adaptive_avg_pool2d(features(x), 1), [ALL_OF_IT]),
    "by a mean": (lambda x: features(x).mean((2, 3))[:, :, None, None], [ALL_OF_IT]),
    "with channels last": (
        lambda x: features(x).permute(0, 2, 3, 1).amax((1, 2), keepdim=True),
        [ALL_OF_IT],
    ),
    "all pixels as channels": (lambda x: features(x).flatten(1)[:, :, None, None], [ALL_OF_IT]),
    "of a crop": (
        lambda x: F.adaptive_max_pool2d(features(x[:, :, 4:20, 8:16]), 1),
        [((12.0, 12.0), ((4.0, 20.0), (8.0, 16.0)))],
    ),
    "of two crops": (
        lambda x: F.adaptive_avg_pool2d(features(torch.cat([x[..., :20], x[..., 20:]])), 1),
        [
            ((12.0, 10.0), ((0.0, 24.0), (0.0, 20.0))),
            ((12.0, 30.0), ((0.0, 24.0), (20.0, 40.0))),
        ],
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_one_location_lies_on_all_that_it_is_pooled_from(name):
    pool, expected = POOLED[name]
    made, place = located(pool)
    assert not place.doubt
    assert place.layout.channels_first(made).shape[2:] == (1, 1)
    if expected == [ALL_OF_IT]:
        assert place.placement is None
        return
    views = place.placement.views
    assert [((*view.rows, *view.columns), view.seen) for view in views] == expected
    assert [view.block for view in views] == list(range(len(views)))


def test_one_location_of_pixels_that_were_sorted_is_doubtful():
    _, place = located(lambda x: F.adaptive_avg_pool2d(features(x.sort(3)[0]), 1))
    assert place.doubt == "it is not known where sort brings the pixels"


def test_sizes_do_not_make_a_layout():
    # As many channels as rows, and as columns.
    torch.manual_seed(0)
    square = nn.Conv2d(3, 64, 3, padding=1)
    for pool in ((1, 2), (2, 1), (2, 2)):
        _, place = located(lambda x, pool=pool: F.max_pool2d(square(x), pool), size=(64, 64))
        assert place.layout.order == (0, 1, 2, 3)
        assert place.octaves == pool


@pytest.mark.parametrize("size", [(8, 400), (32, 100), (17, 33)])
def test_strides_are_counted_along_each_side(size):
    def halved(x):
        for _ in range(3):
            x = F.max_pool2d(x, 2, ceil_mode=True)
        return x

    made, place = located(halved, size=size)
    assert place.octaves == (8, 8) or (made.shape[2] == 1 and place.octaves[1] == 8)


def test_windows_a_little_off_the_even_stretch_count_as_even():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1))
    _, place = located(stem, size=(224, 224))
    assert place.placement is None
    assert place.octaves == (8, 8)


def test_windows_far_off_it_are_placed():
    def valid(x):
        for index in range(6):
            torch.manual_seed(index)
            x = nn.Conv2d(x.shape[1], 4, (1, 8))(x)
        return x

    _, place = located(valid, size=(8, 64))
    (view,) = place.placement.views
    assert not place.placement.moved
    # Six windows of 8 columns without padding: the first is centred at 6 * 3.5 + 0.5.
    assert view.columns[0] == pytest.approx(21.5)
    assert view.columns[-1] == pytest.approx(64 - 21.5)


def test_moves_are_placements():
    for move, rows, columns in (
        (lambda x: x[:, :, 4:20, 8:], (5.0, 19.0), (9.0, 39.0)),
        (lambda x: x.flip(2), (23.0, 1.0), (1.0, 39.0)),
        (lambda x: F.pad(x, (0, 40, 0, 0)), (1.0, 23.0), (1.0, 79.0)),
        (lambda x: x.mT, (1.0, 23.0), (1.0, 39.0)),
    ):
        made, place = located(lambda x, move=move: F.avg_pool2d(features(move(x)), 1))
        if place.placement is None:
            assert place.layout.transposed
            continue
        (view,) = place.placement.views
        ends = [(line[0], line[-1]) for line in (view.rows, view.columns)]
        assert ends == [pytest.approx(rows), pytest.approx(columns)]
        assert place.placement.moved
        assert place.layout.channels_first(made).shape[2:] == (len(view.rows), len(view.columns))


@pytest.mark.parametrize("images", [1, 2, 3])
def test_views_of_an_image_are_told_apart(images):
    for join, interleaved in (
        (lambda views: torch.cat(views), False),
        (lambda views: torch.stack(views, 1).flatten(0, 1), True),
    ):
        _, place = located(lambda x, join=join: features(join([x, x.flip(3)])), images)
        placement = place.placement
        assert placement.blocks == 2
        assert placement.interleaved == (interleaved or images == 1)
        first, second = placement.views
        assert (first.block, second.block) == (0, 1)
        assert first.columns == second.columns[::-1]
        assert first.rows == second.rows


def test_five_crops_lie_in_the_corners_and_the_middle():
    crops = [(0, 0), (0, 24), (8, 0), (8, 24), (4, 12)]
    _, place = located(lambda x: features(torch.cat(five_crop(x, 16))))
    assert place.placement.blocks == 5
    for view, (top, left) in zip(place.placement.views, crops, strict=True):
        assert view.seen == ((top, top + 16), (left, left + 16))
        assert view.rows[0] == pytest.approx(top + 1)
        assert view.columns[0] == pytest.approx(left + 1)


def test_each_image_of_a_batch_may_lie_elsewhere():
    def own(x):
        return features(torch.stack([x[0, :, :, :20], x[1, :, :, 20:].flip(1)]))

    _, place = located(own)
    assert place.placement.varies
    assert place.placement.blocks == 1
    first, second = place.placement.views
    assert (first.image, second.image) == (0, 1)
    assert first.columns[0] == pytest.approx(1)
    assert second.columns[0] == pytest.approx(21)
    assert first.rows == second.rows[::-1]
    assert place.placement.of_image(1).views == (second._replace(image=None),)


def test_a_turned_image_is_placed_by_location():
    from torchvision.transforms.functional import rotate

    _, place = located(lambda x: features(rotate(x, 30.0)))
    (view,) = place.placement.views
    assert view.points.pitch == pytest.approx(2.0, abs=0.2)
    assert place.octaves == (2, 2)


def test_parts_of_a_batch_are_joined():
    whole = ((0.0, 4.0), (0.0, 4.0))
    one = Placement((View(0, (1.0, 3.0), (3.0, 1.0), whole),))
    assert of_parts([(2, one), (1, one)], (4, 4)) is one
    assert of_parts([(2, None), (1, None)], (4, 4)) is None
    joined = of_parts([(2, one), (1, None)], (4, 4))
    assert [view.image for view in joined.views] == [0, 1, 2]
    assert [view.columns for view in joined.views] == [(3.0, 1.0), (3.0, 1.0), (1.0, 3.0)]


def test_unknown_functions_are_named_as_doubt():
    _, place = located(lambda x: features(x.sort(3)[0]))
    assert place.placement is None
    assert "sort" in place.doubt


def test_windows_of_even_size_keep_the_strides():
    def same(x):
        for index in range(6):
            torch.manual_seed(index)
            x = nn.Conv2d(x.shape[1], 4, 2, padding="same")(x)
        return x

    _, place = located(lambda x: same(F.max_pool2d(x, 4)), size=(32, 64))
    assert place.octaves == (4, 4)
