"""Exported maps of networks of tokens, whose depths take the place of scales."""

import pytest
import torch

from fastsal import FastCAM, SMOEScale
from fastsal.export import with_fast_cam, with_map
from fastsal.export.onnx import write_onnx
from tests.fastsal.networks.test_depths import images, mixer, of_torchvision, small

pytestmark = [
    pytest.mark.filterwarnings("ignore:layer.* give negative activations"),
    pytest.mark.filterwarnings("ignore:.* is 0 everywhere"),
]


@pytest.mark.parametrize("make", [small, mixer, of_torchvision])
def test_the_exported_map_is_that_of_the_attribution(make):
    network = make()
    mapped = with_map(network, images(32))
    expected = SMOEScale(network).maps(images(32))
    exported = torch.export.export(mapped, (images(32),)).module()
    for module in (mapped, exported):
        output, combined, per_scale = module(images(32))
        torch.testing.assert_close(output, expected.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(combined, expected.combined, atol=1e-4, rtol=0)
        assert len(per_scale) == 4


def test_the_map_in_an_onnx_file_is_that_of_the_attribution(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = small()
    path = tmp_path / "net.onnx"
    write_onnx(with_map(network, images(32)), images(32), path)
    session = runtime.InferenceSession(path)
    name = session.get_inputs()[0].name
    found = session.run(["map"], {name: images(32).numpy()})[0]
    expected = SMOEScale(network).maps(images(32)).combined
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


def test_fast_cam_of_pooled_tokens_needs_no_gradients():
    network = mixer()
    found = with_fast_cam(network, images(32), target=2)(images(32))[1]
    expected = FastCAM(network).attribute(images(32), 2, expand_channels=False)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_fast_cam_of_a_class_token_is_refused():
    with pytest.raises(ValueError, match=r"global average pooling.*Use FastCAM"):
        with_fast_cam(small(), images(32))
