"""`layers="late"`: everywhere the scales after the first two, as if they were given by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastsal import FastCAM, SMOEScale, find_scales, watch
from fastsal.cli.main import main
from fastsal.export.model import with_fast_cam, with_map
from fastsal.networks.layers import LATE
from fastsal.networks.state import LayerError

NETWORK = """
import torch
from torch import nn

def four(scales=4):
    torch.manual_seed(0)
    layers = []
    for index in range(scales):
        layers += [nn.MaxPool2d(2)] if index else []
        layers += [nn.Conv2d(4 if index else 3, 4, 3, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    # No class's activation map is 0.
    head[2].weight.data.abs_()
    return nn.Sequential(*layers, *head).eval()
"""


def network(scales=4):
    names = {}
    exec(NETWORK, names)
    return names["four"](scales)


@pytest.fixture
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def by_hand(net, images):
    scales = find_scales(net, images)
    assert len(scales) == 4
    return scales[2:]


def test_smoe_scale_reads_the_scales_after_the_first_two(images):
    net = network()
    late, hand = SMOEScale(net, LATE), SMOEScale(net, by_hand(net, images))
    maps, expected = late.maps(images), hand.maps(images)
    assert [scale.name for scale in maps.scales] == [scale.name for scale in expected.scales]
    assert torch.equal(maps.combined, expected.combined)
    # The second call runs what the first prepared.
    for _ in range(2):
        assert torch.equal(late.attribute(images), hand.attribute(images))
    assert "scales ['7', '10']" in repr(late)
    assert "late scales found at the first call" in repr(SMOEScale(net, LATE))


def test_weights_are_those_of_the_scales_that_are_read(images):
    net = network()
    late = SMOEScale(net, LATE, weights=[3, 1]).attribute(images)
    assert torch.equal(late, SMOEScale(net, by_hand(net, images), weights=[3, 1]).attribute(images))
    with pytest.raises(ValueError, match="expected 2 weights"):
        SMOEScale(net, LATE, weights=[1, 2, 3, 4]).attribute(images)


def test_fast_cam_keeps_its_layer(images):
    net = network()
    late = FastCAM(net, scales=LATE)
    hand = FastCAM(net, scales=by_hand(net, images))
    assert torch.equal(late.attribute(images, target=1), hand.attribute(images, target=1))
    every = FastCAM(net)
    for other in (every, hand):
        assert torch.equal(
            late.class_activation_map(images, target=1),
            other.class_activation_map(images, target=1),
        )


@pytest.mark.parametrize("make", [with_map, with_fast_cam])
def test_an_exported_module_has_the_maps_of_the_scales_given_by_hand(make, images):
    net = network()
    late, hand = (make(net, images, layers=layers) for layers in (LATE, by_hand(net, images)))
    assert [scale.name for scale in late.scales] == ["7", "10"]
    for one, other in zip(late(images)[1:2], hand(images)[1:2], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.allclose(
        with_map(net, images, layers=LATE)(images)[1],
        SMOEScale(net, LATE).attribute(images, expand_channels=False)[:, 0],
        atol=1e-5,
    )


def test_a_watched_pass_shows_them(images):
    net = network()
    with (
        watch(net, every=1, layers=LATE) as late,
        watch(net, every=1, layers=by_hand(net, images)) as hand,
    ):
        for _ in range(2):
            net(images)
    assert [scale.name for scale in late.latest.scales] == ["7", "10"]
    assert torch.equal(late.latest.combined, hand.latest.combined)


@pytest.mark.parametrize("scales", [2, 3])
def test_networks_of_fewer_than_three_scales_are_told(scales, images):
    net = network(scales)
    uses = (
        lambda: SMOEScale(net, LATE).attribute(images),
        lambda: FastCAM(net, scales=LATE).attribute(images, target=0),
        lambda: with_map(net, images, layers=LATE),
    )
    for use in uses:
        if scales == 3:
            use()
            continue
        with pytest.raises(
            LayerError, match=r"has 2 \('1', '4'\); expected 3 or more: give layers=N"
        ):
            use()


def test_a_module_of_this_name_is_given_in_a_list(images):
    net = network()
    net.add_module("late", nn.Identity())
    assert [scale.name for scale in SMOEScale(net, LATE).maps(images).scales] == ["7", "10"]
    inner = nn.Sequential()
    inner.add_module("late", net[:2])
    assert [s.name for s in SMOEScale(inner, ["late"]).maps(images).scales] == ["late"]


def test_a_callable_needs_layers():
    with pytest.raises(ValueError, match="cannot find scales inside"):
        SMOEScale(lambda images: images, LATE)


@pytest.mark.heavy
def test_the_command_takes_the_word(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    Path("networks.py").write_text(NETWORK)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("one.png")
    of = ["--model", "networks.py:four", "--size", "32", "--quiet"]
    given = {"late": ["late"], "hand": ["7", "10"]}
    for out, layers in given.items():
        assert main(["maps", "one.png", "--out", out, *of, "--layers", *layers]) == 0
    entries = {out: json.loads(Path(out, "manifest.jsonl").read_text()) for out in given}
    assert entries["late"]["settings"]["layers"] == "late"
    assert [scale["name"] for scale in entries["late"]["scales"]] == ["7", "10"]
    assert Path("late/one_map.png").read_bytes() == Path("hand/one_map.png").read_bytes()
    # Finished pictures stay valid.
    assert main(["maps", "one.png", "--out", "late", *of, "--layers", "late"]) == 0
    files = {}
    for name, layers in given.items():
        command = ["export", "networks.py:four", "--out", f"{name}.onnx", "--size", "32"]
        assert main([*command, "--layers", *layers]) == 0
        import onnxruntime

        session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
        image = np.full((1, 3, 32, 32), 0.25, np.float32)
        image[:, :, 8:20, 4:16] = 0.75
        files[name] = session.run(["map", "scale_1", "scale_2"], {"input": image})
    for one, other in zip(*files.values(), strict=True):
        np.testing.assert_array_equal(one, other)
