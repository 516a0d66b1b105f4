"""Windows of grey values: pictures of 12 and 16 bits, against NumPy."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastsal import load_images
from fastsal.images.files import read_photograph

WINDOWS = [(0, 4095), (1000, 1200), (-500, 70000)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_window_of_a_file_is_linear_and_cut_off(tmp_path, window, suffix):
    values = np.arange(0, 4096, dtype=np.uint16).reshape(32, 128)
    Image.fromarray(values).save(tmp_path / f"scan.{suffix}")
    found = read_photograph(tmp_path / f"scan.{suffix}", None, window).image
    expected = np.clip((values.astype(float) - window[0]) / (window[1] - window[0]), 0, 1)
    assert found.shape == (1, 3, 32, 128)
    np.testing.assert_allclose(found[0, 1].numpy(), expected, atol=1e-6)
    # Steps of 12 bits are told apart, which 8 bits do not.
    inside = (values > window[0]) & (values < window[1])
    assert len(np.unique(found[0, 0].numpy()[inside])) == inside.sum()


def test_float_pictures_and_eight_bits_have_windows_too(tmp_path):
    floats = np.linspace(-1000, 3000, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(floats).save(tmp_path / "hounsfield.tif")
    found = read_photograph(tmp_path / "hounsfield.tif", None, (-1000, 400)).image[0, 0]
    np.testing.assert_allclose(found, np.clip((floats + 1000) / 1400, 0, 1), atol=1e-6)
    eight = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(eight).save(tmp_path / "grey.png")
    found = read_photograph(tmp_path / "grey.png", None, (10, 20)).image[0, 0]
    np.testing.assert_allclose(found, np.clip((eight - 10.0) / 10, 0, 1), atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
def test_load_images_takes_windows_of_files_arrays_and_tensors(tmp_path, window):
    values = np.random.default_rng(0).integers(0, 4096, (20, 20)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    expected = np.clip((values.astype(float) - window[0]) / (window[1] - window[0]), 0, 1)
    tensor = torch.from_numpy(values.astype(np.int32))[None]
    for given in (str(tmp_path / "scan.png"), values, values.astype(np.float64), tensor):
        batch = load_images(given, mean=(0.5,), std=(0.25,), size=20, window=window)
        assert batch.inputs.shape == (1, 1, 20, 20)
        np.testing.assert_allclose(batch.inputs[0, 0].numpy(), (expected - 0.5) / 0.25, atol=1e-5)


def test_windows_are_checked(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(
        ValueError, match="window 0,9 is for grey pictures, and this one's mode is RGB"
    ):
        read_photograph(tmp_path / "colour.png", None, (0, 9))
    for window in ((5, 5), (5, 1), (0, float("inf"))):
        with pytest.raises(ValueError, match="a window is LOW,HIGH"):
            load_images(np.zeros((4, 4)), mean=(0.5,), std=(0.5,), window=window)
    with pytest.raises(ValueError, match="is for grey images, and one has 3 channels"):
        load_images(np.zeros((4, 4, 3)), mean=(0.5,), std=(0.5,), window=(0, 9))
    with pytest.raises(ValueError, match="not finite"):
        load_images(np.full((4, 4), np.nan), mean=(0.5,), std=(0.5,), window=(0, 9))
