"""Coordinates of a pass's tensors, against images whose values are their own coordinates."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import roi_align
from torchvision.transforms.functional import InterpolationMode, five_crop, rotate

from fastsal.geometry.coordinates import Coordinates
from fastsal.geometry.fields import positions
from fastsal.geometry.rules import tensors_in


class Mode(TorchFunctionMode):
    """Tells the coordinates of the tensors of a pass."""

    def __init__(self, *images):
        super().__init__()
        self.coordinates = Coordinates(images)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if not name.endswith("_like") and not name.startswith("new_"):
            made = [args[0]] if name == "__setitem__" else list(tensors_in(result))
            read = list(tensors_in((args, kwargs)))
            self.coordinates.follow(func, args, kwargs, read, made)
        return result


def followed(move, image):
    with Mode(image) as mode, torch.no_grad():
        made = move(image)
    return made, mode.coordinates.of(made)


def affine(theta, size=None):
    def move(x):
        own = torch.tensor(theta).expand(len(x), 2, 3)
        grid = F.affine_grid(own, (*x.shape[:2], *(size or x.shape[2:])), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    return move


def windows(x):
    n, c, h, w = x.shape
    return (
        x.reshape(n, c, 2, h // 2, 2, w // 2)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(-1, c, h // 2, w // 2)
    )


def assigned(x):
    made = torch.zeros(len(x), 3, 20, 30)
    made[:, :, 2:14, 5:25] = x
    return made


def written(x):
    made = torch.zeros(len(x), 3, 20, 30)
    made.narrow(2, 4, 12).narrow(3, 0, 20).copy_(x)
    return made


def boxes(x):
    own = [[float(index), 4.0, 2.0, 14.0, 9.0] for index in range(len(x))]
    return roi_align(x, torch.tensor(own), (5, 6), aligned=True)


PERMUTATION = torch.randperm(20, generator=torch.Generator().manual_seed(0))
MOVES = {
    "slice": lambda x: x[:, :, 3:9, 2:],
    "step": lambda x: x[..., ::2, 1::3],
    "negative pad": lambda x: F.pad(x, (-2, 0, -1, -3)),
    "pad": lambda x: F.pad(x, (1, 2, 3, 4)),
    "reflect": lambda x: F.pad(x, (3, 2, 1, 4), mode="reflect"),
    "replicate": nn.ReplicationPad2d((3, 2, 1, 4)),
    "circular": lambda x: F.pad(x, (3, 2, 1, 4), mode="circular"),
    "narrow": lambda x: x.narrow(2, 3, 5).narrow(-1, 4, 9),
    "flip": lambda x: x.flip(3),
    "fliplr": lambda x: torch.flip(x, (2, 3)),
    "transpose": lambda x: x.transpose(2, 3),
    "attribute": lambda x: x.mT,
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "rot270": lambda x: torch.rot90(x, 3, (2, 3)),
    "roll": lambda x: x.roll((3, -5), (2, 3)),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "index_select": lambda x: x.index_select(3, PERMUTATION),
    "index": lambda x: x[:, :, :, PERMUTATION],
    "gather": lambda x: x.gather(3, PERMUTATION.expand(len(x), 3, 12, 20)),
    "chunk": lambda x: torch.cat(x.chunk(2, 3)[::-1], 3),
    "unbind": lambda x: torch.stack(x.unbind(2)[::-1], 2),
    "views": lambda x: torch.cat([x, x.flip(3)]),
    "five crop": lambda x: torch.stack(five_crop(x, 8), 1).flatten(0, 1),
    "windows": windows,
    "assigned": assigned,
    "written": written,
    "repeat": lambda x: x.repeat(1, 1, 1, 2),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, size=(9, 30), mode="bilinear"),
    "aligned": lambda x: F.interpolate(x, size=(9, 30), mode="bilinear", align_corners=True),
    "antialias": lambda x: F.interpolate(x, size=(6, 10), mode="bilinear", antialias=True),
    "turned": lambda x: rotate(x, 90.0),
    "by 30 degrees": lambda x: rotate(x, 30.0, interpolation=InterpolationMode.BILINEAR),
    "grid": affine([[0.5, 0.1, 0.25], [0.0, -0.5, -0.25]]),
    "grid of a size": affine([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]], (6, 5)),
    "boxes": boxes,
}


@pytest.mark.parametrize("name", MOVES)
def test_values_that_move_take_their_coordinates_along(name):
    """The network moves values alone: an image of its own coordinates shows where they go."""
    move = MOVES[name]
    shape = (2, 3, 12, 20)
    rows = (torch.arange(12) + 0.5)[:, None].expand(shape)
    columns = (torch.arange(20) + 0.5).expand(shape)
    index = torch.arange(2.0)[:, None, None, None].expand(shape)
    weight = move(torch.ones(shape))
    made, fields = followed(move, torch.rand(shape))
    assert fields.unknown == ()
    assert not fields.varies
    (field,) = fields.places
    found = positions(field).expand(3, *made.shape)
    for component, values in zip(found, (rows, columns, index), strict=True):
        inside = weight > 0.01
        right = move(values.contiguous()) / weight
        assert torch.allclose(component[inside], right[inside], atol=1e-3)
        assert component[weight == 0].isnan().all()


def test_channels_of_pixel_unshuffle_show_their_own_pixels():
    made, fields = followed(lambda x: F.pixel_unshuffle(x, 2), torch.rand(1, 1, 4, 6))
    rows, columns, _ = positions(fields.places[0]).expand(3, *made.shape)
    assert rows[0, :, 0, 0].tolist() == [0.5, 0.5, 1.5, 1.5]
    assert columns[0, :, 1, 2].tolist() == [4.5, 5.5, 4.5, 5.5]


def reached(operation, shape, element):
    """The first and last input row and column that an output element depends on."""
    image = torch.rand(shape, requires_grad=True)
    made = operation(image)
    made[0, :, element[0], element[1]].sum().backward()
    hit = (image.grad[0].abs().sum(0) > 0).nonzero()
    return hit.amin(0), hit.amax(0)


WINDOWED = {
    "conv": nn.Conv2d(2, 3, (3, 5), stride=(2, 1), padding=(1, 2)),
    "dilated": nn.Conv2d(2, 3, 3, padding=2, dilation=2),
    "valid": nn.Conv2d(2, 3, 5, stride=2),
    "same": nn.Conv2d(2, 3, 3, padding="same"),
    "grouped": nn.Conv2d(2, 2, 3, groups=2, padding=1),
    "mean": nn.AvgPool2d(3, 2, 1),
    "mean of all": nn.AdaptiveAvgPool2d((4, 5)),
    "norm": nn.LPPool2d(2, 2),
    "patches": nn.Conv2d(2, 3, 4, 4),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_lie_at_the_centre_of_the_pixels_that_they_see(name):
    operation = WINDOWED[name]
    shape = (1, 2, 24, 20)
    made, fields = followed(operation, torch.rand(shape))
    rows, columns, _ = positions(fields.places[0]).expand(3, *made.shape)
    # Windows that reach outside see less than their extent.
    for element in ((made.shape[2] // 2, made.shape[3] // 2), (made.shape[2] // 2 - 1, 2)):
        first, last = reached(operation, shape, element)
        centre = (first + last + 1) / 2
        assert rows[0, 0][element].item() == pytest.approx(centre[0].item(), abs=1e-3)
        assert columns[0, 0][element].item() == pytest.approx(centre[1].item(), abs=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (4, 2, 1), (3, 1, 1)])
def test_transposed_windows_lie_among_the_pixels_that_they_see(kernel, stride, padding):
    operation = nn.ConvTranspose2d(2, 2, kernel, stride, padding)
    made, fields = followed(operation, torch.rand(1, 2, 10, 10))
    rows = positions(fields.places[0]).expand(3, *made.shape)[0, 0, 0]
    for row in range(2 * stride, made.shape[2] - 2 * stride):
        first, last = reached(operation, (1, 2, 10, 10), (row, made.shape[3] // 2))
        assert first[0] - 0.01 <= rows[row, 0] - 0.5 <= last[0] + 0.01 or kernel == stride
        assert abs(rows[row, 0] - (first[0] + last[0] + 1) / 2) <= 0.51


def test_a_transformers_tokens_stay_with_their_patches():
    torch.manual_seed(0)
    patches = nn.Conv2d(3, 16, 4, 4)
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    own = torch.zeros(1, 1, 16)

    def tokens(x):
        grid = patches(x).flatten(2).transpose(1, 2)
        return block(torch.cat([own.expand(len(x), -1, -1), grid], 1))

    made, fields = followed(tokens, torch.rand(2, 3, 16, 24))
    rows, columns, index = positions(fields.places[0]).expand(3, *made.shape)
    assert rows[:, 0].isnan().all()
    assert rows[0, 1:, 0].tolist() == [2.0] * 6 + [6.0] * 6 + [10.0] * 6 + [14.0] * 6
    assert columns[0, 1:7, 0].tolist() == [2.0, 6.0, 10.0, 14.0, 18.0, 22.0]
    assert index[:, 1, 0].tolist() == [0.0, 1.0]


def test_attention_follows_the_query():
    query, keys = torch.rand(2, 5, 8), nn.Linear(3, 8)

    def cross(x):
        tokens = keys(x.flatten(2).transpose(1, 2))
        return F.scaled_dot_product_attention(tokens.flip(1), tokens, tokens)

    made, fields = followed(cross, torch.rand(2, 3, 4, 4))
    rows = positions(fields.places[0]).expand(3, *made.shape)[0]
    assert rows[0, :, 0].tolist() == [3.5] * 4 + [2.5] * 4 + [1.5] * 4 + [0.5] * 4
    # Learned queries are no place in the image.
    learned = followed(
        lambda x: F.scaled_dot_product_attention(query, t := keys(x.flatten(2).mT), t),
        torch.rand(2, 3, 4, 4),
    )[1]
    assert learned.places == ()


def test_an_image_and_its_mirror_in_one_tensor_are_two_places():
    for both in (
        lambda x: x + x.flip(3),
        lambda x: nn.Conv2d(6, 4, 3, padding=1)(torch.cat([x, x.flip(3)], 1)),
        lambda x: torch.maximum(x, x.flip(3)),
    ):
        made, fields = followed(both, torch.rand(1, 3, 8, 16))
        columns = [positions(place).expand(3, *made.shape)[1, 0, 0, 0] for place in fields.places]
        assert [round(line[0].item(), 2) for line in columns] == [0.5, 15.5]


def test_a_gate_is_no_place():
    def gated(x):
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))

    made, fields = followed(gated, torch.rand(1, 3, 8, 16))
    assert len(fields.places) == 1
    assert positions(fields.places[0]).expand(3, *made.shape)[1, 0, 0, 0, -1] == 15.5


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("sort", lambda x: x.sort(3)[0]),
        ("topk", lambda x: x.topk(20, 3)[0]),
        ("fft_fft2", lambda x: torch.fft.fft2(x).real),
    ],
)
def test_what_brings_values_to_places_of_their_own_is_named(name, function):
    assert name in followed(function, torch.rand(1, 3, 12, 20))[1].unknown


def transformed(x):
    zoom = torch.sigmoid(x.mean((1, 2, 3)))
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)


VARYING = {
    "spatial transformer": transformed,
    "number": lambda x: x[:, :, int(x.sum((0, 1, 3)).argmax()) // 2 :],
    "item": lambda x: x.roll(x.sum((0, 1, 2)).argmax().item(), 3),
    "list": lambda x: x[:, :, : x.flatten().argsort().tolist()[0] % 5 + 3],
    "index": lambda x: x[:, :, x.sum((0, 1, 3)).argsort()],
    "gather": lambda x: x.gather(3, x.argsort(3)),
    "boxes": lambda x: roi_align(x, F.pad(x[:, 0, 0, :4].abs() * 8, (1, 0)), (4, 4)),
}
FIXED = {
    "slice": lambda x: x[:, :, 3:],
    "grid": affine([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]),
    "shape": lambda x: x[:, :, : x.shape[3] // 2],
    "like another": lambda x: x[:, :, :1].expand_as(x),
    "number later": lambda x: x * x.max().item(),
    "assignment": assigned,
}


@pytest.mark.parametrize("name", VARYING)
def test_places_that_the_image_decides_are_marked(name):
    assert followed(VARYING[name], torch.rand(2, 3, 12, 20))[1].varies


@pytest.mark.parametrize("name", FIXED)
def test_places_that_it_does_not_decide_are_fixed(name):
    fields = followed(FIXED[name], torch.rand(2, 3, 12, 20))[1]
    assert fields.places
    assert not fields.varies


def test_the_part_that_is_seen_is_the_images_at_the_first_weights():
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    for move, rows, columns in (
        (lambda x: x, (0, 12), (0, 20)),
        (lambda x: x[:, :, 3:9, 2:], (3, 9), (2, 20)),
        (lambda x: F.pad(x, (4, 0, 0, 2)), (0, 14), (-4, 20)),
        (lambda x: x.flip(3)[..., :5], (0, 12), (15, 20)),
        (lambda x: x[:, :, ::2, ::2], (-0.5, 11.5), (-0.5, 19.5)),
    ):
        _, fields = followed(
            lambda x, move=move: convolution(move(x))[..., 1:], torch.rand(1, 3, 12, 20)
        )
        (sides,) = fields.seen.sides
        assert [tuple(map(round, side)) for side in sides] == [
            tuple(map(round, side)) for side in (rows, columns)
        ]
