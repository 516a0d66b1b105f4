"""Forward passes in onnxruntime are PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.metrics import passes
from evaluation.metrics.passes import check_engine, forward_in
from evaluation.networks.build import build_network


def test_an_unknown_engine_and_another_device_are_refused():
    with pytest.raises(ValueError, match="unknown engine 'tensorrt': expected torch or onnx"):
        check_engine("tensorrt", "cpu")
    with pytest.raises(ValueError, match="onnxruntime is for --device cpu, got cuda:0"):
        check_engine("onnxruntime", "cuda:0")


@pytest.mark.parametrize("examples", [1, 3])
def test_onnxruntime_gives_the_network_s_answers_for_any_number_of_images(examples):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = build_network("resnet9", 8, 0, size=(24, 24)).eval()
    images = torch.rand(7, 3, 24, 24)
    forward = forward_in("onnxruntime", network, images[:examples])
    with torch.inference_mode():
        for count in (1, 2, 7):
            torch.testing.assert_close(
                forward(images[:count]), network(images[:count]), atol=1e-4, rtol=1e-4
            )
        last = images.to(memory_format=torch.channels_last)
        torch.testing.assert_close(forward(last), network(images), atol=1e-4, rtol=1e-4)


def test_answers_that_differ_are_refused(monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(passes, "_ROUNDING", 0.0)
    network = build_network("resnet9", 8, 0, size=(16, 16)).eval()
    with pytest.raises(ValueError, match=r"a probability differs by .* leave out --passes-in"):
        forward_in("onnxruntime", network, torch.rand(2, 3, 16, 16))


def test_a_network_that_cannot_be_exported_is_refused():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Counting(nn.Module):
        """Python's own numbers decide what it does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, : 1 + int(x.sum().item() > 0)]

    with pytest.raises(ValueError, match="cannot be run in onnxruntime"):
        forward_in("onnxruntime", Counting().eval(), torch.rand(2, 3, 2, 2))
