import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow
from torch import nn

from fastsal import FastCAM, GradCAM, SMOEScale, load_images, picture, watch
from fastsal.images.colour import heatmap, lovi, overlay
from fastsal.images.pictures import Picture


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, 10),
    )


def pixels(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 16, 12, generator=torch.Generator().manual_seed(1))


def array(picture: object) -> np.ndarray:
    return np.asarray(picture).astype(int)


def eight_bits(rgb: torch.Tensor) -> np.ndarray:
    return (rgb * 255).round().int().permute(1, 2, 0).numpy()


def test_maps_are_saved_and_handed_to_pillow_as_they_are_drawn(tmp_path: Path) -> None:
    shown = pixels(1)
    maps = SMOEScale(network()).maps(shown)
    drawn = {
        (): overlay(shown, maps.combined),
        (("scales", True),): overlay(shown, maps.stacked),
        (("cmap", "viridis"), ("alpha", 0.4)): overlay(shown, maps.combined, 0.4, cmap="viridis"),
    }
    for options, expected in drawn.items():
        maps.save(tmp_path / "new" / "cat.png", shown, **dict(options))
        with Image.open(tmp_path / "new" / "cat.png") as file:
            assert np.array_equal(array(file), eight_bits(expected[0]))
        assert np.array_equal(
            array(maps.to_pil(shown[0], **dict(options))), eight_bits(expected[0])
        )
    assert np.array_equal(array(maps.to_pil()), eight_bits(heatmap(maps.combined)[0]))
    assert np.array_equal(array(maps.to_pil(scales=True)), eight_bits(lovi(maps.stacked)[0]))
    maps.save(tmp_path / "cat.jpg", shown)
    with Image.open(tmp_path / "cat.jpg") as file:
        assert (file.format, file.size) == ("JPEG", (12, 16))


def test_a_batch_stands_side_by_side_eight_a_row() -> None:
    images = torch.rand(9, 3, 5, 7)
    whole = Picture(images).rgb
    assert whole.shape == (3, 2 * 5 + 4, 8 * 7 + 7 * 4)
    assert torch.equal(whole[:, :5, 11:18], images[1])
    assert torch.equal(whole[:, 9:, :7], images[8])
    assert (whole[:, 9:, 7:] == 1).all()
    with pytest.raises(ValueError, match="no map"):
        Picture(images[:0])


def test_attributions_are_drawn_by_their_magnitude_over_the_image() -> None:
    shown = pixels()
    signed = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(2))
    magnitude = signed.numpy().mean(1).__abs__()
    magnitude /= magnitude.max(axis=(1, 2), keepdims=True)
    expected = Picture(overlay(shown, torch.from_numpy(magnitude))).rgb
    torch.testing.assert_close(picture(signed, shown).rgb, expected)
    # A class activation map has its layer's size.
    small = GradCAM(network()).attribute(shown, target=1)
    assert small.shape[2:] == (8, 6)
    assert picture(small, shown).rgb.shape == (3, 16, 28)
    # Nothing salient is the image with its share of grey, not NaN.
    nothing = overlay(shown, torch.zeros(2, 16, 12))
    assert torch.equal(picture(torch.zeros_like(signed), shown).rgb, Picture(nothing).rgb)


def test_a_notebook_shows_the_picture_and_a_terminal_asks_the_viewer(monkeypatch) -> None:
    drawn, asked = picture(torch.rand(1, 4, 4)), []
    assert drawn._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setattr(ImageShow, "show", lambda image: asked.append(image.size) or len(asked) < 2)
    drawn.show()
    assert asked == [(4, 4)]
    with pytest.raises(RuntimeError, match=r"no viewer .* use save\(path\)"):
        drawn.show()
    display = pytest.importorskip("IPython.display")
    seen: list[object] = []
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr(display, "display", seen.append)
    drawn.show()
    assert seen == [drawn]


def test_reprs_are_one_short_line() -> None:
    net = network()
    smoe, cam = SMOEScale(net, normalize="minmax", tile=None, max_batch=4), FastCAM(net)
    assert repr(smoe) == (
        "SMOEScale(Sequential, scales found at the first call, statistic='smoe_scale', "
        "weights='linear', normalize='minmax', max_batch=4)"
    )
    maps = smoe.maps(pixels())
    assert repr(maps) == "Maps(2 images of 16x12, 2 scales: '1' to '4', logits (2, 10))"
    assert "scales ['1', '4']" in repr(smoe)
    assert repr(cam).startswith("FastCAM(Sequential, cam='gradcam', scales found")
    assert repr(GradCAM(net, net[4])) == "GradCAM(Sequential, layer '4', cam='gradcam')"
    assert repr(SMOEScale(net.forward, net[1])).startswith("SMOEScale(forward, scales ['1']")
    with watch(net, every=1, layers=["1", "4"]) as watched:
        net(pixels())
    assert repr(watched.latest) == "Sample of pass 0(2 images of 16x12, 2 scales: '1' to '4')"
    assert repr(load_images(pixels()[0], mean=[0, 0, 0], std=[1, 1, 1], size=8)) == (
        "ImageBatch(inputs=(1, 3, 8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))"
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: picture([[0.0]]), TypeError, "list"),
        (lambda: picture(torch.zeros(2, 2)), ValueError, r"\(2, 2\).*\(N, C, H, W\)"),
        (lambda: picture(torch.full((1, 2, 2), float("nan"))), ValueError, "not finite"),
        (lambda: picture(torch.rand(1, 4, 4), "cat.jpg"), TypeError, "str.*load_images"),
        (lambda: picture(torch.rand(2, 4, 4), torch.rand(1, 3, 4, 4)), ValueError, "same N"),
        (lambda: picture(torch.rand(1, 4, 4)).save("cat"), ValueError, "'cat'.*such as .png"),
        (lambda: picture(torch.rand(1, 4, 4)).save("cat.txt"), ValueError, "'.txt' is no suffix"),
    ],
)
def test_bad_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_without_pillow_the_message_says_what_to_install(monkeypatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: object) -> object:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match="pip install pillow"):
        picture(torch.rand(1, 4, 4)).to_pil()
