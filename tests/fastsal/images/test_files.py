"""Photographs read, against planted pixels, Pillow and torchvision; pictures written, by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms import functional

from fastsal.images.files import find_photographs, read_photograph, write_png

# One corner of a photograph of 6x4 pixels is red, another green, a third blue.
# The rest has a grey of the palettes' own.
CORNERS = {(0, 0): (255, 0, 0), (0, 5): (0, 255, 0), (3, 0): (0, 0, 255)}


def planted():
    pixels = np.full((4, 6, 3), 51, dtype=np.uint8)
    for place, colour in CORNERS.items():
        pixels[place] = colour
    return Image.fromarray(pixels)


def shown(path, size=None):
    image = read_photograph(path, size).image
    assert image.shape[:2] == (1, 3)
    return image[0].permute(1, 2, 0).mul(255).numpy()


# What each EXIF orientation asks of a viewer, so its inverse is what the camera stored.
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_every_orientation_comes_out_upright(tmp_path, orientation):
    turn = TURNS[orientation]
    stored = planted() if turn is None else planted().transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    photograph = read_photograph(tmp_path / "turned.png", None)
    assert (photograph.width, photograph.height) == (6, 4)
    np.testing.assert_allclose(shown(tmp_path / "turned.png"), np.asarray(planted()), atol=1e-4)


WHOLE = {"webp": {"lossless": True}}


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("P", "png"), ("RGBA", "webp"), ("P", "gif"), ("RGB", "bmp"), ("RGB", "tif")],
)
def test_modes_without_loss(tmp_path, mode, suffix):
    planted().convert(mode).save(tmp_path / f"one.{suffix}", **WHOLE.get(suffix, {}))
    found = shown(tmp_path / f"one.{suffix}")
    np.testing.assert_allclose(found, np.asarray(planted()), atol=1e-4)


def ramp(largest):
    return np.arange(24).reshape(4, 6) / 23 * largest


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (ramp(255).astype(np.uint8), "png"),
        (ramp(65535).astype(np.uint16), "png"),
        (ramp(65535).astype(np.uint16), "tif"),
        (ramp(65535).astype(np.int32), "tif"),
        (ramp(1).astype(np.float32), "tif"),
    ],
    ids=["8 bits", "16 bits, png", "16 bits, tif", "32 bits", "float"],
)
def test_grey_of_any_depth_keeps_its_range(tmp_path, pixels, suffix):
    Image.fromarray(pixels).save(tmp_path / f"grey.{suffix}")
    found = shown(tmp_path / f"grey.{suffix}")
    # Half a level of rounding; the whole-number kinds were cut off to begin with.
    np.testing.assert_allclose(found, np.repeat(ramp(255)[..., None], 3, 2), atol=1.001)
    assert found.min() == 0
    assert found.max() == pytest.approx(255)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [(ramp(300).astype(np.float32), "0 to 300"), (ramp(1e6).astype(np.int32), "0 to 1000000")],
)
def test_pixels_without_a_fixed_range_are_refused(tmp_path, pixels, told):
    Image.fromarray(pixels).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=told):
        read_photograph(tmp_path / "wide.tif", None)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_what_is_transparent_is_white(tmp_path, kind):
    alpha = np.array([[0, 255, 51]], dtype=np.uint8)
    grey = np.zeros((1, 3), dtype=np.uint8)
    expected = [255, 0, 204]
    if kind == "LA":
        picture = Image.fromarray(np.dstack([grey, alpha]), "LA")
    elif kind == "RGBA":
        picture = Image.fromarray(np.dstack([grey] * 3 + [alpha]), "RGBA")
    else:
        picture = Image.fromarray(np.array([[0, 1, 1]], dtype=np.uint8), "P")
        picture.putpalette([9, 9, 9, 0, 0, 0])
        expected = [255, 0, 0]
    extra = {"transparency": 0} if kind == "palette" else {}
    picture.save(tmp_path / "clear.png", **extra)
    assert np.allclose(shown(tmp_path / "clear.png")[0], np.array(expected)[:, None], atol=1.01)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (100, 101), (64, 64), (7, 90)])
@pytest.mark.parametrize("size", [8, 24, 64])
def test_resizing_is_torchvisions(tmp_path, shape, size):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    resized = functional.resize(Image.fromarray(pixels), size)
    np.testing.assert_allclose(shown(tmp_path / "one.png", size), np.asarray(resized), atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1), (1, 17), (3, 2000)])
def test_thin_strips_stay_bounded(tmp_path, shape):
    Image.new("RGB", shape[::-1], "red").save(tmp_path / "strip.png")
    found = shown(tmp_path / "strip.png", 32)
    assert max(found.shape[:2]) <= 16 * 32
    assert found.shape[0] * found.shape[1] <= 32 * 16 * 32
    # In the proportions of the strip, to the pixel that the shorter side rounds to.
    short, long = sorted(found.shape[:2])
    assert abs(short - max(1, long * min(shape) / max(shape))) <= 0.5 + long / 2000
    assert (found == [255, 0, 0]).all()


def test_broken_files_raise(tmp_path):
    planted().resize((60, 40)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"cat"}.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        with pytest.raises((OSError, ValueError, SyntaxError)):
            read_photograph(tmp_path / f"{name}.png", None)


def test_pictures_are_written_to_the_pixel(tmp_path):
    levels = np.random.default_rng(2).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = torch.from_numpy(levels).permute(2, 0, 1) / 255
    write_png(picture, tmp_path / "inner" / "one.png")
    with Image.open(tmp_path / "inner" / "one.png") as read:
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), levels)
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "inner" / "one.png").stat().st_mode == plain.stat().st_mode


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    old, new = torch.zeros(3, 4, 4), torch.ones(3, 4, 4)
    write_png(old, tmp_path / "one.png")
    before = (tmp_path / "one.png").read_bytes()

    def full_disk(self, file, **_):
        file.write(before[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_png(new, tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "one.png"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        *("a/one.png", "a/two.JPG", "a/b/one.png", "a/notes.txt", "a/._one.png", "a/.git/x.png"),
        *("a/maps/one_map.png", "c/one.png", "c/unusual"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("paths", "places"),
    [
        (["a"], ["one.png", "two.JPG", "b/one.png"]),
        (["a/../a"], ["one.png", "two.JPG", "b/one.png"]),
        (["a/two.JPG", "a/one.png"], ["two.JPG", "one.png"]),
        (["c/unusual"], ["unusual"]),
        (["a", "c"], ["a/one.png", "a/two.JPG", "a/b/one.png", "c/one.png"]),
        (["c/one.png", "a/one.png"], ["c/one.png", "a/one.png"]),
        (["a/one.png", "a", "./a/b"], ["one.png", "two.JPG", "b/one.png"]),
    ],
)
def test_places_mirror_the_folders(paths, places):
    found = list(find_photographs([Path(path) for path in paths], Path("a/maps")))
    assert [place.as_posix() for _, place in found] == places
    assert all(file.is_file() for file, _ in found)


def test_a_circle_of_links_ends(tree):
    (tree / "a" / "b" / "again").symlink_to(tree / "a", target_is_directory=True)
    assert len(list(find_photographs([Path("a")], Path("a/maps")))) == 3


@pytest.mark.usefixtures("tree")
def test_wrong_paths_are_named():
    with pytest.raises(FileNotFoundError, match="no file or folder nowhere"):
        list(find_photographs([Path("nowhere")], Path("m")))
    with pytest.raises(ValueError, match="give --out another folder"):
        list(find_photographs([Path("c"), Path("a")], Path("c/../a")))


def test_a_shape_drawn_off_centre_stays_where_it_is(tmp_path):
    picture = Image.new("RGB", (300, 200))
    ImageDraw.Draw(picture).rectangle((225, 20, 271, 59), fill="white")
    picture.save(tmp_path / "one.jpg", quality=95)
    rows, columns = np.nonzero(shown(tmp_path / "one.jpg", 50)[..., 0] > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 14, 56, 67)
