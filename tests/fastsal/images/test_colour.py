import colorsys

import matplotlib as mpl
import numpy as np
import pytest
import torch

from fastsal.images.colour import _hsv_to_rgb, heatmap, lovi, overlay


def slow_lovi(maps: np.ndarray) -> np.ndarray:
    """Eq 4 to 7, a location at a time in Python floats, HSV to RGB by the standard library."""
    count, r, height, width = maps.shape
    picture = np.zeros((count, 3, height, width))
    for n in range(count):
        for i in range(height):
            for j in range(width):
                s = [float(maps[n, k, i, j]) for k in range(r)]
                if sum(s) == 0:
                    continue
                phi = [1 - (k - 1) / (r - 1) for k in range(1, r + 1)]
                hue = 300 * sum(a * b for a, b in zip(s, phi, strict=True)) / sum(s)
                nu = 1 / r
                saturation = 1 - (sum(s) / (r * max(s)) - nu) / (1 - nu)
                picture[n, :, i, j] = colorsys.hsv_to_rgb(hue / 360, saturation, max(s))
    return picture


@pytest.mark.parametrize("r", [2, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lovi_is_the_equations_written_out(r: int, dtype: torch.dtype) -> None:
    maps = torch.rand(2, r, 6, 7, dtype=dtype, generator=torch.Generator().manual_seed(r))
    maps[0, :, 0] = 0  # nothing salient
    maps[0, 1:, 1] = 0  # one layer alone
    maps[1, :, 2] = maps[1, :1, 2]  # all layers agree
    picture = lovi(maps)
    assert picture.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    np.testing.assert_allclose(picture.numpy(), slow_lovi(maps.double().numpy()), atol=tolerance)


def test_lovi_where_the_equations_read_zero_by_zero() -> None:
    assert torch.equal(lovi(torch.zeros(1, 5, 2, 2)), torch.zeros(1, 3, 2, 2))
    single = torch.rand(2, 1, 3, 3)
    assert torch.equal(lovi(single), single.expand(2, 3, 3, 3))
    tiny = torch.full((1, 5, 1, 1), 1e-40)  # subnormal: a quotient of such numbers stays finite
    assert torch.isfinite(lovi(tiny)).all()


def test_lovi_of_half_precision_is_computed_in_float32() -> None:
    maps = torch.rand(1, 5, 4, 4).half()
    assert torch.equal(lovi(maps), lovi(maps.float()))


def test_hsv_to_rgb_is_colorsys() -> None:
    generator = torch.Generator().manual_seed(0)
    hue = torch.rand(1, 20, 25, generator=generator, dtype=torch.float64) * 360
    hue[0, 0, :7] = torch.arange(7) * 60
    saturation, value = torch.rand(2, 1, 20, 25, generator=generator, dtype=torch.float64)
    rgb = _hsv_to_rgb(hue, saturation, value)[0].flatten(1).T.tolist()
    flat = (x.flatten().tolist() for x in (hue / 360, saturation, value))
    expected = [colorsys.hsv_to_rgb(h % 1.0, s, v) for h, s, v in zip(*flat, strict=True)]
    np.testing.assert_allclose(rgb, expected, atol=1e-12)


def test_heatmap_is_magma() -> None:
    values = torch.linspace(0, 1, 256)
    rgb = heatmap(values[None, None])[0, :, 0].T
    expected = mpl.colormaps["magma"](np.linspace(0, 1, 256))[:, :3]
    np.testing.assert_allclose(rgb.numpy(), expected, atol=0.0082)


def test_heatmap_grows_lighter() -> None:
    # CIE lightness from linear light; a perceptually uniform map rises evenly.
    rgb = heatmap(torch.linspace(0, 1, 33)[None, None].double())[0, :, 0]
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64) @ linear
    lightness = torch.where(
        luminance > 216 / 24389, 116 * luminance ** (1 / 3) - 16, luminance * 24389 / 27
    )
    steps = lightness.diff()
    assert steps.min() > 1
    assert steps.max() < 4.5


# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
DEFICIENCIES = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("cmap", ["inferno", "magma", "viridis", "plasma", "cividis"])
def test_the_own_colour_maps_grow_lighter_for_everybody(cmap: str, deficiency: str) -> None:
    rgb = heatmap(torch.linspace(0, 1, 33)[None, None].double(), cmap=cmap)[0, :, 0].numpy()
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    luminance = np.array([0.2126, 0.7152, 0.0722]) @ seen
    lightness = np.where(
        luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27
    )
    assert np.diff(lightness).min() > 0.5


def slow_overlay(image: np.ndarray, saliency: float, colour: np.ndarray, alpha: float, grey: float):
    """The overlay of one pixel in Python floats."""
    t = min(max((saliency - 0.35) / 0.4, 0), 1)
    opacity = alpha * t * t * (3 - 2 * t)
    below = (1 - grey) * image + grey * float(image @ np.array([0.299, 0.587, 0.114]))
    return (1 - opacity) * below + opacity * colour


@pytest.mark.parametrize("cmap", ["inferno", "viridis", "plasma", "cividis", "turbo", "viridis_r"])
def test_overlay_is_its_equation_with_matplotlib_s_colours(cmap: str) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 4, 5, generator=generator)
    maps = torch.rand(2, 4, 5, generator=generator)
    shown = overlay(images, maps, 0.6, cmap=cmap, grey=0.5).numpy()
    for n, i, j in np.ndindex(2, 4, 5):
        s = float(maps[n, i, j])
        colour = np.array(mpl.colormaps[cmap](max(s - 0.35, 0) / 0.65)[:3])
        wanted = slow_overlay(images[n, :, i, j].double().numpy(), s, colour, 0.6, 0.5)
        np.testing.assert_allclose(shown[n, :, i, j], wanted, atol=0.02)


def test_overlay_is_the_image_where_nothing_is_salient() -> None:
    images = torch.rand(1, 3, 4, 5)
    faint = torch.full((1, 4, 5), 0.35)
    torch.testing.assert_close(overlay(images, faint, grey=0), images)
    torch.testing.assert_close(
        overlay(images, faint[:, None].expand(-1, 3, -1, -1), grey=0), images
    )
    shares = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("nchw,c->nhw", images, shares)[:, None].expand_as(images)
    torch.testing.assert_close(overlay(images, faint, grey=1), grey)
    torch.testing.assert_close(overlay(images, torch.ones(1, 4, 5), alpha=0, grey=1), grey)
    full = overlay(images, torch.ones(1, 4, 5), alpha=1)
    torch.testing.assert_close(full, heatmap(torch.ones(1, 4, 5), cmap="inferno"))


def test_overlay_of_scales_says_which_scale_saw_it() -> None:
    maps = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(3)).double()
    images = torch.rand(1, 3, 4, 5).double()
    shown = overlay(images, maps, 0.9, grey=0.5).numpy()
    sharp = slow_lovi(maps.numpy() ** 4)
    for i, j in np.ndindex(4, 5):
        s = maps[0, :, i, j].numpy()
        colour = sharp[0, :, i, j] / sharp[0, :, i, j].max()
        mean = float(s @ np.array([1, 2, 3]) / 6)
        wanted = slow_overlay(images[0, :, i, j].numpy(), mean, colour, 0.9, 0.5)
        np.testing.assert_allclose(shown[0, :, i, j], wanted, atol=1e-9)


@pytest.mark.parametrize("cmap", ["inferno", "viridis", "plasma", "cividis"])
def test_tables_are_matplotlib_s(cmap: str) -> None:
    values = np.linspace(0, 1, 256)
    rgb = heatmap(torch.from_numpy(values)[None, None], cmap=cmap)[0, :, 0].T
    np.testing.assert_allclose(rgb.numpy(), mpl.colormaps[cmap](values)[:, :3], atol=0.0153)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: lovi(torch.rand(3, 4, 4)), ValueError, r"\(3, 4, 4\).*\(N, R, H, W\)"),
        (lambda: lovi(torch.rand(1, 0, 4, 4)), ValueError, "no layer"),
        (lambda: lovi(torch.full((1, 2, 1, 1), 1.5)), ValueError, "1.5"),
        (lambda: lovi(torch.full((1, 2, 1, 1), float("nan"))), ValueError, "nan"),
        (lambda: lovi(torch.zeros(1, 2, 1, 1, dtype=torch.uint8)), TypeError, "uint8"),
        (lambda: heatmap(torch.full((1, 2, 2), -0.1)), ValueError, "-0.1"),
        (lambda: heatmap([[0.0]]), TypeError, "list"),
        (lambda: overlay(torch.rand(1, 3, 4, 4), torch.rand(1, 5, 4)), ValueError, r"\(1, 5, 4\)"),
        (lambda: overlay(torch.rand(1, 3, 4, 4), torch.rand(1, 4, 4), 2), ValueError, "alpha is 2"),
        (
            lambda: overlay(torch.randn(1, 3, 4, 4), torch.rand(1, 4, 4)),
            ValueError,
            r"before the network's normalisation.*load_images.*images \* std \+ mean",
        ),
        (lambda: heatmap(torch.rand(1, 2, 2), cmap="lava"), ValueError, "'lava'.*inferno"),
    ],
)
def test_bad_input_is_named(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
