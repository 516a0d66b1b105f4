from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.transforms import functional as transforms

from fastsal import SMOEScale, load_images

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.1, 0.25)


def photograph(height: int = 20, width: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def expected(array: np.ndarray, size: int) -> torch.Tensor:
    """The shorter side resized, the middle cut out and normalised, by torchvision."""
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    resized = transforms.resize(tensor, size, antialias=True)
    return transforms.normalize(transforms.center_crop(resized, [size, size]), MEAN, STD)[None]


def test_every_form_of_an_image_is_torchvision_s_batch(tmp_path: Path) -> None:
    array = photograph()
    Image.fromarray(array).save(tmp_path / "cat.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [
        tmp_path / "cat.png",
        str(tmp_path / "cat.png"),
        Image.fromarray(array),
        array,
        array[..., ::-1].copy()[..., ::-1],  # BGR made RGB, as OpenCV's users do
        array.astype(np.float64) / 255,
        tensor,
        tensor.float() / 255,
        tensor[None],
    ]
    wanted = expected(array, 16)
    for form in forms:
        batch = load_images(form, mean=MEAN, std=STD, size=16)
        # Pillow rounds to 8 bits after resizing; the smallest deviation is 0.1.
        torch.testing.assert_close(batch.inputs, wanted, atol=1.5 / 255 / 0.1, rtol=0)
        shown = wanted * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        torch.testing.assert_close(batch.pixels, shown, atol=1.5 / 255, rtol=0)
    several = load_images([array, tensor, Image.fromarray(array)], mean=MEAN, std=STD, size=16)
    assert several.inputs.shape == (3, 3, 16, 16)
    # Without resizing there is nothing to round.
    exact = load_images(forms, mean=MEAN, std=STD, size=20)
    torch.testing.assert_close(exact.inputs, expected(array, 20).expand(9, -1, -1, -1))
    whole = load_images(array, mean=MEAN, std=STD, size=10, crop=False)
    assert whole.inputs.shape == (1, 3, 10, 16)


def test_grey_transparent_and_turned_images(tmp_path: Path) -> None:
    grey = photograph(8, 8, 1)
    for form in (grey, grey[..., 0], Image.fromarray(grey[..., 0])):
        batch = load_images(form, mean=(0.5,), std=(0.5,), size=8)
        wanted = torch.from_numpy(grey).permute(2, 0, 1)[None].float() / 127.5 - 1
        torch.testing.assert_close(batch.inputs, wanted)
        torch.testing.assert_close(batch.pixels, (wanted / 2 + 0.5).expand(-1, 3, -1, -1))
    clear = photograph(8, 8, 4)
    clear[..., 3] = 0
    for form in (clear, Image.fromarray(clear)):
        assert (load_images(form, mean=(0, 0, 0), std=(1, 1, 1), size=8).inputs == 1).all()
        opacity = load_images(form, mean=(0,) * 4, std=(1,) * 4, size=8).inputs[:, 3]
        assert (opacity == 0).all()
    turned = Image.fromarray(photograph(8, 8))
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(tmp_path / "turned.png", exif=exif)
    batch = load_images(tmp_path / "turned.png", mean=(0, 0, 0), std=(1, 1, 1), size=8)
    upright = torch.from_numpy(photograph(8, 8)).permute(2, 0, 1).flip(1, 2).float() / 255
    torch.testing.assert_close(batch.pixels[0], upright)


def test_normalisation_and_size_are_the_network_s() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("tf_efficientnet_lite0")
    batch = load_images(photograph(), network)
    assert (batch.mean, batch.std) == ((0.5,) * 3, (0.5,) * 3)
    assert batch.inputs.shape == (1, 3, 224, 224)
    for carrier in (ResNet50_Weights.DEFAULT, ResNet50_Weights.DEFAULT.transforms()):
        found = load_images(photograph(), carrier, size=20)
        assert found.mean == (0.485, 0.456, 0.406)
        assert found.std == (0.229, 0.224, 0.225)
    processor = SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
    assert load_images(photograph(), processor).std == (1.0, 2.0, 3.0)
    own = load_images(photograph(), network, mean=MEAN, std=STD, size=20)
    torch.testing.assert_close(own.inputs, expected(photograph(), 20))


def test_the_batch_goes_from_network_to_picture() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    batch = load_images(photograph(), mean=MEAN, std=STD, size=16)
    shown = SMOEScale(net, net[1]).maps(batch.inputs).to_pil(batch)
    assert shown.size == (16, 16)


def load(given: object, **options: object) -> object:
    return load_images(given, mean=MEAN, std=STD, size=8, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: load_images(photograph()), ValueError, "ResNet50_Weights.DEFAULT, or mean="),
        (lambda: load_images(photograph(), resnet50()), TypeError, "ResNet does not carry"),
        (
            lambda: load_images(photograph(), ResNet50_Weights),
            TypeError,
            "ResNet50_Weights.DEFAULT",
        ),
        (lambda: load(torch.randn(3, 8, 8)), ValueError, "values from -.*before any normalisation"),
        (lambda: load(torch.full((3, 8, 8), 255.0)), ValueError, "255.*divide 8-bit"),
        (lambda: load(torch.zeros(3, 8, 8, dtype=torch.int64)), TypeError, "int64"),
        (lambda: load(torch.rand(8, 8, 3)), ValueError, r"\(8, 8, 3\).*\(C, H, W\)"),
        (lambda: load(np.zeros((3, 8, 8))), ValueError, r"\(3, 8, 8\).*\(H, W, 3\)"),
        (lambda: load(7), TypeError, "int.*path"),
        (lambda: load([]), ValueError, "no image"),
        (lambda: load("absent.jpg"), OSError, "absent.jpg"),
        (
            lambda: load([photograph(8, 8), photograph(8, 16)], crop=False),
            ValueError,
            r"\(8, 8\), \(8, 16\).*crop=True",
        ),
        (
            lambda: load_images(photograph(), mean=MEAN, std=(1, 0, 1)),
            ValueError,
            "std above 0",
        ),
    ],
)
def test_bad_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
