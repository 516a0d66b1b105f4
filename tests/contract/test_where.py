"""Maps lie where the pixels were, of networks that move their image, against a planted object."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn
from torchvision.models import get_model
from torchvision.ops import roi_align
from torchvision.transforms.functional import InterpolationMode, center_crop, five_crop, rotate

from fastsal import FastCAM, GradCAM, SMOEScale, find_scales, watch
from fastsal.attribution.video import maps as video_maps
from fastsal.export import with_map

HEIGHT, WIDTH = 64, 96
LAYERS = ["body.1", "body.4"]
# Row and column of the object in each image of a batch.
CENTRES = [(28, 36), (36, 60)]


class Moving(nn.Module):
    """A network that moves its image first."""

    def __init__(self, move=lambda x: x, channels=3, together=None):
        super().__init__()
        torch.manual_seed(0)
        self.move, self.together = move, together
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 5)
        # What is bright stays bright, and counts for every class.
        for parameter in self.parameters():
            parameter.data.abs_()

    def forward(self, x):
        pooled = self.body(self.move(x)).mean((2, 3))
        return self.head(pooled if self.together is None else self.together(pooled, len(x)))


def blocks(pooled, images):
    return pooled.unflatten(0, (-1, images)).mean(0)


def rows_of_views(pooled, images):
    return pooled.unflatten(0, (images, -1)).mean(1)


def blocks_by_views(x):
    x = x.view(len(x), 3, x.shape[2] // 2, 2, x.shape[3] // 2, 2)
    x = x.permute(0, 3, 5, 1, 2, 4).contiguous()
    return x.view(len(x), 12, *x.shape[4:])


def affine(theta, size=None):
    def move(x):
        own = torch.tensor(theta).expand(len(x), 2, 3)
        grid = F.affine_grid(own, (*x.shape[:2], *(size or x.shape[2:])), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)

    return move


def windows(x):
    n, c, h, w = x.shape
    x = x.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(-1, c, h // 2, w // 2)


def boxes(x):
    own = [[float(index), 16.0, 8.0, 80.0, 56.0] for index in range(len(x))]
    return roi_align(x, torch.tensor(own), (48, 64), aligned=True)


def centred(x):
    """A spatial transformer: what is bright comes to the middle of each image, twice as large."""
    mass = x.sum(1)
    total = mass.sum((1, 2))
    rows = (mass.sum(2) * (torch.arange(x.shape[2]) + 0.5)).sum(1) / total / x.shape[2]
    columns = (mass.sum(1) * (torch.arange(x.shape[3]) + 0.5)).sum(1) / total / x.shape[3]
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 0.5
    theta[:, 0, 2], theta[:, 1, 2] = 2 * columns - 1, 2 * rows - 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def around_the_brightest(x):
    """A crop that NumPy or Python decides: the same of all images of a batch."""
    left = max(0, int(x.sum((0, 1, 2)).argmax()) - 33)
    return x[:, :, :, left : left + 66]


ORDER = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))
QUARTER = torch.rot90
NETWORKS = {
    "plain": Moving(),
    "centre crop": Moving(lambda x: center_crop(x, [48, 64])),
    "slice": Moving(lambda x: x[:, :, 8:56, 16:]),
    "odd slice": Moving(lambda x: x[:, :, 5:, :75]),
    "mirror": Moving(lambda x: x.flip(3)),
    "upside down": Moving(lambda x: x.flip(2)),
    "pad to the right": Moving(lambda x: F.pad(x, (0, 64, 0, 32))),
    "pad around": Moving(lambda x: F.pad(x, (16, 16, 16, 16), mode="reflect")),
    "transpose": Moving(lambda x: x.transpose(2, 3)),
    "quarter turn": Moving(lambda x: QUARTER(x, 1, (2, 3))),
    "three quarters": Moving(lambda x: QUARTER(x, 3, (2, 3))),
    "resize": Moving(lambda x: F.interpolate(x, size=(48, 48), mode="bilinear")),
    "pool": Moving(lambda x: F.adaptive_avg_pool2d(x, (32, 48))),
    "enlarge": Moving(lambda x: F.interpolate(x, scale_factor=2)),
    "roll": Moving(lambda x: x.roll((10, -20), (2, 3))),
    "boxes": Moving(boxes),
    "grid": Moving(affine([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])),
    "mirrored grid": Moving(affine([[-0.5, 0.0, 0.1], [0.0, 0.6, -0.1]], (48, 48))),
    "turned by 30 degrees": Moving(affine([[0.8, -0.4, 0.0], [0.4, 0.8, 0.0]], (64, 64))),
    "rotate": Moving(lambda x: rotate(x, 20.0, interpolation=InterpolationMode.BILINEAR)),
    "views": Moving(lambda x: torch.cat([x, x.flip(3)]), together=blocks),
    "views side by side": Moving(
        lambda x: torch.stack([x, x.flip(3)], 1).flatten(0, 1), together=rows_of_views
    ),
    "five crops": Moving(lambda x: torch.cat(five_crop(x, [48, 64])), together=blocks),
    "windows": Moving(windows, together=rows_of_views),
    "pixel unshuffle": Moving(lambda x: F.pixel_unshuffle(x, 2), 12),
    "blocks by views": Moving(blocks_by_views, 12),
    "focus": Moving(
        lambda x: torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1), 12
    ),
    "spatial transformer": Moving(centred),
    "crop by a number": Moving(around_the_brightest),
}
MIRRORED = {
    "mirror added": Moving(lambda x: x + x.flip(3)),
    "mirror in channels": Moving(lambda x: torch.cat([x, x.flip(3)], 1), 6),
}
SEVERAL_MAPS = ("views", "views side by side", "five crops", "windows")
# Tiles of these are as their whole.
TILED = ("plain", "transpose", "resize", "pixel unshuffle", "blocks by views", "focus")
NOT_EXPORTED = (*SEVERAL_MAPS, "turned by 30 degrees", "rotate", "spatial transformer")


def objects(centres, height=HEIGHT, width=WIDTH):
    images = torch.zeros(len(centres), 3, height, width)
    for image, (row, column) in zip(images, centres, strict=True):
        image[:, row - 3 : row + 3, column - 3 : column + 3] = torch.tensor([1.0, 0.5, 0.8])[
            :, None, None
        ]
    return images


def peaks(maps):
    """The centre of the brightest part of each map."""
    found = []
    for one in maps:
        shown = one - one[one > 0].min()
        shown = shown.clamp_min(0) * (shown > 0.6 * shown.max())
        rows = shown.sum(1) @ (torch.arange(one.shape[0]) + 0.5) / shown.sum()
        columns = shown.sum(0) @ (torch.arange(one.shape[1]) + 0.5) / shown.sum()
        found.append((rows.item(), columns.item()))
    return found


def check(maps, centres, off=2.5):
    for found, centre in zip(peaks(maps), centres, strict=True):
        assert found == pytest.approx(centre, abs=off)


@pytest.fixture(params=NETWORKS)
def moving(request):
    return request.param, NETWORKS[request.param].eval()


@pytest.mark.parametrize("layers", [None, LAYERS], ids=["found", "given"])
def test_maps_lie_on_the_object(moving, layers):
    _, network = moving
    attributor = SMOEScale(network, layers)
    images = objects(CENTRES)
    for _ in range(2):
        maps = attributor.maps(images)
        check(maps.combined, CENTRES)
        for index in range(2):
            check(maps.stacked[:, index], CENTRES)
    for image, centre in zip(images, CENTRES, strict=True):
        check(attributor.attribute(image[None])[:, 0], [centre])
    parts = SMOEScale(network, layers, max_batch=1).attribute(images)[:, 0]
    check(parts, CENTRES)


def test_a_batch_is_its_loop(moving):
    name, network = moving
    if name == "crop by a number":
        pytest.skip("the crop is that of a whole batch")
    attributor = SMOEScale(network)
    images = objects(CENTRES)
    batch = attributor.attribute(images)
    for index in range(len(images)):
        alone = attributor.attribute(images[index : index + 1])
        assert torch.allclose(batch[index : index + 1], alone, atol=1e-4)


def test_pixels_that_do_not_reach_the_output_have_no_salience(moving):
    name, network = moving
    if name == "spatial transformer":
        pytest.skip("every pixel decides where the image is")
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.1
    image.requires_grad_()
    torch.manual_seed(0)
    # One number to which every activation counts.
    network.body(network.move(image)).abs().sum().backward()
    reaches = image.grad[0].abs().amax(0) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = SMOEScale(network).attribute(image.detach())[0, 0]
    # A location at the border shows half a location more.
    near = F.max_pool2d(reaches[None].float(), 5, 1, 2)[0] > 0
    assert not found[~near].any()
    inner = F.max_pool2d((~reaches)[None].float(), 5, 1, 2)[0] == 0
    assert (found[inner] > 0).all()


def test_fast_cam_and_its_cam_lie_on_the_object(moving):
    _, network = moving
    images = objects(CENTRES)
    for layer in (None, "body.4"):
        fast = FastCAM(network, layer, scales=LAYERS if layer else None)
        check(fast.attribute(images, 1)[:, 0], CENTRES, 4.0)
        cam = fast.class_activation_map(images, 1)
        assert (cam >= 0).all()


@pytest.mark.parametrize("name", MIRRORED)
def test_what_shows_two_places_is_laid_on_both(name):
    network = MIRRORED[name].eval()
    for layers in (None, LAYERS):
        (found,) = SMOEScale(network, layers).attribute(objects([(28, 36)]))[:, 0]
        halves = found[:, : WIDTH // 2], found[:, WIDTH // 2 :].flip(1)
        check(halves, [(28, 36), (28, 36)])
        assert torch.allclose(*halves, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layers", [None, LAYERS], ids=["found", "given"])
def test_watched_maps_lie_on_the_object(moving, layers, count):
    _, network = moving
    images = objects(CENTRES)
    with watch(network, 1, layers=layers, images=count) as watched, torch.no_grad():
        for _ in range(3):
            network(images)
    sample = watched.latest
    check(sample.combined, CENTRES[:count])
    check(sample.stacked[:, -1], CENTRES[:count])
    assert sample.picture().shape == (3, count * HEIGHT, 4 * WIDTH)


def test_frames_of_a_video_lie_on_the_object(moving):
    _, network = moving
    frames = objects([*CENTRES, CENTRES[0]])
    for at_once in (1, 2):
        found = list(video_maps(iter(frames), SMOEScale(network), at_once=at_once))
        for one, centre in zip(found, [*CENTRES, CENTRES[0]], strict=True):
            check(one.combined, [centre])
            check(one.stacked[:, -1], [centre])
            assert one.stacked.shape[0] == 1


def test_exported_maps_lie_on_the_object_or_are_refused(moving):
    name, network = moving
    images = objects(CENTRES)
    if name in (*NOT_EXPORTED, "crop by a number"):
        with pytest.raises(ValueError, match="export"):
            with_map(network, images)
        return
    module = with_map(network, images)
    _, combined, *_ = module(images)
    check(combined, CENTRES)
    assert torch.allclose(combined, SMOEScale(network).maps(images).combined, atol=1e-4)


def test_tiles_lie_on_the_object_or_are_refused(moving):
    name, network = moving
    images = objects([(28, 36), (150, 90)], 192, 192)
    tiled = SMOEScale(network, tile=(64, 64), overlap=16)
    if name not in TILED:
        with pytest.raises(ValueError, match="tile"):
            tiled.attribute(images)
        return
    check(tiled.attribute(images)[:, 0], [(28, 36), (150, 90)])


def test_tiles_of_a_network_that_halves_one_side_are_the_whole():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d((1, 2))),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
    ).eval()
    image = torch.rand(1, 3, 128, 128)
    for layers in (None, ["1", "4", "7"]):
        whole = SMOEScale(network, layers).attribute(image)
        tiled = SMOEScale(network, layers, tile=(32, 32), overlap=32).attribute(image)
        assert torch.allclose(whole, tiled, atol=1e-4)


def test_a_callable_that_moves_the_image_is_followed():
    network = Moving().eval()
    attributor = SMOEScale(lambda x: network(x[:, :, 8:, 16:].flip(3)), [network.body[1]])
    check(attributor.attribute(objects(CENTRES))[:, 0], CENTRES)


def test_parts_of_other_sizes_are_followed_in_every_call():
    network = NETWORKS["slice"].eval()
    attributor = SMOEScale(network, LAYERS, max_batch=2)
    images = objects([*CENTRES, CENTRES[0]])
    for _ in range(3):
        check(attributor.attribute(images)[:, 0], [*CENTRES, CENTRES[0]])


def test_grad_cam_knows_channels_by_what_they_show():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d((1, 2))),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 64 * 32, 3)),
    ).eval()
    images = torch.rand(2, 1, 64, 64)
    for layer in ("1", "3", "4"):
        ours = GradCAM(network, layer).attribute(images, 1, relu_attributions=False)
        theirs = LayerGradCam(network, network.get_submodule(layer)).attribute(images, 1)
        assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["transpose", "quarter turn", "mirror", "odd slice"])
def test_grad_cam_stays_captums_at_the_layers_size(name):
    network = NETWORKS[name].eval()
    images = torch.rand(2, 3, HEIGHT, WIDTH)
    ours = GradCAM(network, "body.4").attribute(images, 1, relu_attributions=False)
    theirs = LayerGradCam(network, network.body[4]).attribute(images, 1)
    assert torch.allclose(ours, theirs, atol=1e-6)


class Padded(nn.Module):
    """Padding outside the convolution, more to the right: "same" as in TensorFlow."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        kernels = ((3, 16, 7), (16, 16, 3), (16, 16, 3))
        self.convolutions = nn.ModuleList(nn.Conv2d(*one, 2, bias=False) for one in kernels)
        self.relus = nn.ModuleList(nn.ReLU() for _ in kernels)

    def forward(self, x):
        for convolution, relu in zip(self.convolutions, self.relus, strict=True):
            kernel = convolution.kernel_size[0]
            pads = [max((-(-side // 2) - 1) * 2 + kernel - side, 0) for side in x.shape[:1:-1]]
            padding = [half for pad in pads for half in (pad // 2, pad - pad // 2)]
            x = relu(convolution(F.pad(x, padding)))
        return x.mean((2, 3))


def test_padding_outside_of_convolutions_moves_nothing():
    for size in ((64, 96), (61, 90)):
        images = objects(CENTRES, *size)
        check(SMOEScale(Padded().eval()).attribute(images)[:, 0], CENTRES, 4.5)


def test_windows_without_padding_see_the_middle():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 11, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 16, 9, bias=False), nn.ReLU()),
    ).eval()
    for layers in (None, ["1", "4"]):
        check(SMOEScale(network, layers).attribute(objects(CENTRES))[:, 0], CENTRES)


CUTS = {
    "slice": lambda x: x[:, :, 3:-3, 2:],
    "narrow": lambda x: x.narrow(2, 3, x.shape[2] - 6).narrow(3, 2, x.shape[3] - 2),
    "negative padding": lambda x: F.pad(x, (-2, 0, -3, -3)),
    "indices": lambda x: x.index_select(2, torch.arange(3, x.shape[2] - 3))[:, :, :, 2:],
    "centre crop": lambda x: center_crop(x, [x.shape[2] - 6, x.shape[3]])[:, :, :, 2:],
}


class CutInside(nn.Module):
    """A network that cuts its features, whose locations are of 4 pixels; then a convolution."""

    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.cut, self.last = cut, nn.Conv2d(8, 8, 3)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU(), nn.AvgPool2d(2))
        for parameter in self.parameters():
            parameter.data.abs_()

    def forward(self, x):
        return self.last(self.cut(self.first(x))).mean((2, 3))


@pytest.mark.parametrize("cut", CUTS)
def test_features_that_are_cut_off_have_no_salience(cut):
    network = CutInside(CUTS[cut]).eval()
    images = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    maps = SMOEScale(network, [network.last], statistic="std").attribute(images)[:, 0]
    expected = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    expected[12:-12, 8:] = True
    for one in maps:
        assert torch.equal(one != 0, expected)


@pytest.mark.parametrize("layers", [1, 3, 6])
def test_windows_without_padding_see_the_border(layers):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(3 if not one else 8, 8, 5) for one in range(layers)))
    for parameter in network.parameters():
        parameter.data.abs_()
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    attributor = SMOEScale(network.eval(), [network[-1]], statistic="std")
    assert bool((attributor.attribute(images) != 0).all())


class Tokens(nn.Module):
    """A stage of tokens after convolutions, as in hybrid transformers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.ReLU())
        self.patches = nn.Conv2d(16, 16, 4, 4, bias=False)
        self.relu = nn.ReLU()
        self.block = nn.Linear(16, 16, bias=False)
        self.last = nn.ReLU()
        self.own = nn.Parameter(torch.zeros(1, 1, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        tokens = self.patches(self.stem(x.flip(3))).flatten(2).transpose(1, 2)
        tokens = self.relu(torch.cat([self.own.expand(len(x), -1, -1), tokens], 1))
        return self.head(self.last(self.block(tokens)).mean(1))


def test_tokens_that_are_given_are_read_by_their_places():
    network = Tokens().eval()
    images = objects(CENTRES)
    maps = SMOEScale(network, ["stem.1", "relu", "last"]).maps(images)
    assert [one.shape[1:] for one in maps.per_scale] == [(64, 96), (16, 24), (16, 24)]
    check(maps.combined, CENTRES)
    check(maps.stacked[:, 2], CENTRES, 3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = [
            FastCAM(network, "last", scales=["stem.1", "relu"]).attribute(images, k)
            for k in range(5)
        ]
    told = [one[:, 0] for one in fast if (one.amax((1, 2, 3)) > 0).all()]
    assert told
    for one in told:
        check(one, CENTRES, 4.0)


class Sorted(Moving):
    def forward(self, x):
        return super().forward(x.sort(3)[0])


HALVED = torch.eye(WIDTH).unflatten(0, (WIDTH // 2, 2)).mean(1)
MIXED = {
    "linear": lambda x: F.linear(x, HALVED),
    "matmul": lambda x: x @ HALVED.T,
    "einsum of the first": lambda x: torch.einsum("vw,nchw->nchv", HALVED, x),
    "einsum": lambda x: torch.einsum("nchw,vw->nchv", x, HALVED),
}


@pytest.mark.parametrize("layers", [None, LAYERS], ids=["found", "given"])
@pytest.mark.parametrize("name", MIXED)
def test_weights_that_mix_rows_or_columns_are_not_known(name, layers):
    network = Moving(MIXED[name]).eval()
    with pytest.warns(UserWarning, match=f"not known where {name.split()[0]} brings the pixels"):
        SMOEScale(network, layers).attribute(objects(CENTRES))


def test_what_is_not_known_is_said_once():
    network = Sorted().eval()
    for attributor in (SMOEScale(network, LAYERS), SMOEScale(network)):
        with pytest.warns(UserWarning, match="not known where sort brings the pixels"):
            attributor.attribute(torch.rand(1, 3, 32, 32))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            attributor.attribute(torch.rand(1, 3, 32, 32))


def test_found_scales_say_where_they_lie():
    (first, _) = find_scales(NETWORKS["slice"].eval(), torch.rand(1, 3, HEIGHT, WIDTH))
    (view,) = first.placement.views
    assert view.seen == ((8.0, 56.0), (16.0, 96.0))
    plain = find_scales(NETWORKS["plain"].eval(), torch.rand(1, 3, HEIGHT, WIDTH))
    assert all(scale.plain for scale in plain)
    assert all(
        scale.varies for scale in find_scales(NETWORKS["spatial transformer"], objects(CENTRES))
    )


@pytest.mark.parametrize("layers", [None, LAYERS], ids=["found", "given"])
@pytest.mark.parametrize(
    "name", ["plain", "centre crop", "mirror", "transpose", "spatial transformer"]
)
def test_one_attributor_lays_images_of_any_size(name, layers):
    attributor = SMOEScale(NETWORKS[name].eval(), layers)
    for size in ((64, 96), (72, 80), (61, 90), (64, 96)):
        check(attributor.attribute(objects(CENTRES, *size))[:, 0], CENTRES)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
)
def test_detectors_that_resize_and_pad_their_images(name):
    torch.manual_seed(0)
    network = get_model(name, weights=None, weights_backbone=None).eval()
    image = torch.full((1, 3, 480, 640), 0.45)
    image[..., 100:140, 559:599] = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    scales = find_scales(network, image)
    attributor = SMOEScale(network, scales[1:3], normalize="none")
    check(attributor.attribute(image)[:, 0], [(120, 579)], 24)


def test_segmentation_networks_are_stretched_as_they_are():
    network = get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    scales = find_scales(network, torch.rand(1, 3, 96, 128))
    assert all(scale.placement is None for scale in scales)
    assert not any(scale.doubt for scale in scales)
