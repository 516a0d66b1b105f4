"""Layer weights from a file: the numbers, and the errors."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastsal import FastCAM, SMOEScale
from fastsal.maps.prior import FORMAT, PRIOR_WEIGHTS, Prior, layer_weights

CONTENT = {"format": FORMAT, "layers": ["1", "4"], "weights": [0.25, 0.75]}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(CONTENT))
    return path


@pytest.mark.parametrize("kind", [SMOEScale, FastCAM])
@pytest.mark.parametrize("layers", [None, ["1", "4"]])
def test_a_file_is_its_numbers(file, kind, layers):
    images = torch.rand(2, 3, 8, 8)
    options = {"scales" if kind is FastCAM else "layers": layers}
    read = kind(_network(), weights=str(file), **options).attribute(images, target=1)
    given = kind(_network(), weights=[0.25, 0.75], **options).attribute(images, target=1)
    assert torch.equal(read, given)
    other = kind(_network(), weights="equal", **options).attribute(images, target=1)
    assert not torch.equal(read, other)


def test_a_file_is_read_once(file):
    attributor = SMOEScale(_network(), weights=file)
    file.unlink()
    assert attributor.attribute(torch.rand(1, 3, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "other"}, 'holds no weights: expected JSON with "format"'),
        ({"weights": [0.25]}, r"as many numbers in \"weights\""),
        ({"weights": [0.25, -1]}, "not negative"),
        ({"weights": [0, 0]}, "not all 0"),
        ({"weights": [0.25, float("nan")]}, "finite"),
        ({"weights": ["a", "b"]}, "as many numbers"),
        ({"layers": None}, 'expected names in "layers"'),
        ({"layers": [1, 4]}, 'expected names in "layers"'),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path, changed, message):
    path = tmp_path / "prior.json"
    path.write_text(json.dumps(CONTENT | changed))
    with pytest.raises(ValueError, match=message) as caught:
        SMOEScale(_network(), weights=path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read weights from .*absent\.json"):
        SMOEScale(_network(), weights=tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read weights from .*broken\.json"):
        SMOEScale(_network(), weights=tmp_path / "broken.json")


def test_weights_of_other_layers_are_refused_with_both_named(file):
    with pytest.raises(ValueError, match=r"for the 2 layers 1, 4, and the 2 read are 0, 3;"):
        SMOEScale(_network(), layers=["0", "3"], weights=file)
    with pytest.raises(ValueError, match="and the 1 read are 4; give these layers, or 1 numbers"):
        SMOEScale(_network(), layers=["4"], weights=file)
    prior = Prior.read(file)
    with pytest.raises(ValueError, match="and the 1 read are 4"):
        layer_weights(prior, 1, ["4"])


def test_a_path_that_is_no_json_is_an_unknown_name():
    with pytest.raises(ValueError, match=r"unknown weights 'prior\.txt'; choose 'linear'"):
        SMOEScale(_network(), weights="prior.txt")


def test_the_paper_s_weights_are_near_its_table_but_not_of_it():
    """Table 4, ImageNet, SMOE Scale and Random: in the fourth decimal nothing says otherwise."""
    kar = [0.5661, 0.5069, 0.5125, 0.464, 0.63]
    roar = [0.4448, 0.4481, 0.3635, 0.3388, 0.2115]
    random_kar = [0.6642, 0.6128, 0.5067, 0.4081, 0.4298]
    random_roar = [0.7348, 0.7241, 0.689, 0.6463, 0.6604]
    nearest = [
        r * torch.tensor(zr / r).log2().item() + k * torch.tensor(k / zk).log2().item()
        for k, r, zk, zr in zip(kar, roar, random_kar, random_roar, strict=True)
    ]
    assert nearest == pytest.approx([0.192, 0.172, 0.344, 0.402, 0.695], abs=6e-4)
    apart = [abs(a - b) for a, b in zip(nearest, PRIOR_WEIGHTS, strict=True)]
    assert 0.02 < max(apart) < 0.03
