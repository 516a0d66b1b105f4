"""Lists of images of different sizes: each map is that of the image alone, in its own picture."""

import pytest
import torch
from torch import nn

from fastsal import (
    CAM,
    Detection,
    FastCAM,
    GradCAM,
    LayerCAM,
    MultiLayerCAM,
    ReciproCAM,
    ScoreCAM,
    SMOEScale,
    watch,
)
from fastsal.export import with_map
from fastsal.export.onnx import write_onnx
from reports.families.yolo import Yolo
from tests.fastsal.detectors.networks import DETECTORS, detector, detr, images

pytestmark = pytest.mark.filterwarnings(
    "ignore:layer.* give negative activations", "ignore:.* is 0 everywhere"
)


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_map_lies_in_its_own_picture(name):
    network = detector(name)
    pictures, centres = images()
    kept = [one.clone() for one in pictures]
    smoe = SMOEScale(network, normalize="none")
    found = smoe.attribute(pictures, expand_channels=False)
    assert isinstance(found, list)
    assert [one.shape for one in found] == [(1, *one.shape[1:]) for one in pictures]
    for one, picture, (row, column) in zip(found, pictures, centres, strict=True):
        torch.testing.assert_close(
            one, smoe.attribute(picture[None], expand_channels=False)[0], rtol=0, atol=0
        )
        # The patch has the salience, above what is flat: the centre of what exceeds the median.
        excess = (one[0] - one[0].median()).clamp_min(0)
        rows, columns = (torch.arange(side) + 0.5 for side in excess.shape)
        assert abs(float((excess.sum(1) * rows).sum() / excess.sum()) - row) < 12
        assert abs(float((excess.sum(0) * columns).sum() / excess.sum()) - column) < 12
    assert all(torch.equal(one, before) for one, before in zip(pictures, kept, strict=True))


def test_the_output_is_the_detectors_for_the_image_alone():
    # Of images that are padded to one size a detector gives other boxes, of padding too.
    network = detector("retinanet")
    pictures, _ = images()
    for maps, picture in zip(SMOEScale(network).maps(pictures), pictures, strict=True):
        (output,) = network([picture])
        torch.testing.assert_close(maps.logits[0]["scores"], output["scores"])
        torch.testing.assert_close(maps.logits[0]["boxes"], output["boxes"])


@pytest.mark.parametrize("make", [detr, Yolo])
def test_other_detectors(make):
    torch.manual_seed(0)
    network = make().eval()
    pictures, _ = images()
    smoe = SMOEScale(network)
    for one, picture in zip(smoe.attribute(pictures), pictures, strict=True):
        assert torch.equal(one, smoe.attribute(picture[None])[0])
        assert one.shape == picture.shape


def test_every_class_takes_lists_with_a_target_for_each_image():
    network = classifier()
    pictures, _ = images()
    targets = [1, 3, 0]
    for make in (SMOEScale, FastCAM, GradCAM, CAM, MultiLayerCAM, ScoreCAM, ReciproCAM):
        attributor = make(network)
        for given in (targets, torch.tensor(targets)):
            found = attributor.attribute(pictures, given)
            for one, picture, target in zip(found, pictures, targets, strict=True):
                assert torch.equal(one, attributor.attribute(picture[None], target)[0])
    cams = FastCAM(network).class_activation_map(pictures, targets)
    alone = FastCAM(network).class_activation_map(pictures[1][None], 3)[0]
    assert torch.equal(cams[1], alone)


def test_further_arguments_go_with_their_image():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = classifier()

        def forward(self, x, shift, factor):
            return self.body(x * factor + shift[:, None, None, None])

    network = Shifted().eval()
    pictures, _ = images()
    shift = torch.tensor([0.0, 0.5, -0.5])
    smoe = SMOEScale(network)
    found = smoe.attribute(pictures, None, (shift, 2.0))
    for k, picture in enumerate(pictures):
        assert torch.equal(
            found[k], smoe.attribute(picture[None], None, (shift[k : k + 1], 2.0))[0]
        )


def test_lists_that_are_refused():
    network = classifier()
    picture = images()[0][0]
    for given in ([picture[None]], [picture, 3]):
        with pytest.raises(TypeError, match=r"one tensor \(C, H, W\) for each image, got"):
            SMOEScale(network).attribute(given)
    with pytest.raises(ValueError, match="at least one image"):
        SMOEScale(network).maps([])
    with pytest.raises(ValueError, match="normalize_over='image'"):
        SMOEScale(network, normalize_over="batch").attribute([picture])
    with pytest.raises(ValueError, match="normalize_over='image'"):
        FastCAM(network, normalize_over="batch").attribute([picture])


def test_watch_refuses_a_detector_and_takes_its_backbone():
    network = detector("retinanet").train()
    pictures, _ = images()
    targets = [
        {"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
        for _ in pictures
    ]
    with pytest.raises(ValueError, match=r"fastsal\.watch\(model\.backbone\)"), watch(network):
        network(pictures, targets)
    with watch(network.backbone, every=1) as watching:
        for _ in range(2):  # The first pass finds the scales.
            losses = network(pictures, targets)
    assert losses["classification"].requires_grad
    assert len(watching.latest.combined) == len(pictures)


def test_export_refuses_selected_boxes_and_writes_what_comes_before(tmp_path):
    pytest.importorskip("onnxruntime")
    network = detector("retinanet")
    image = images()[0][0][None]
    with pytest.raises(ValueError, match=r"such as model\.backbone"):
        write_onnx(with_map(network, image), image, tmp_path / "detector.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_the_backbone_of_a_detector_is_exported_with_its_map(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = detector("retinanet").backbone
    image = images()[0][0][None]
    write_onnx(with_map(network, image), image, tmp_path / "backbone.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "backbone.onnx"))
    saliency = session.run(["map"], {"input": image.numpy()})[0]
    expected = SMOEScale(network).attribute(image, expand_channels=False)[:, 0]
    torch.testing.assert_close(torch.tensor(saliency), expected, rtol=1e-3, atol=1e-4)


def test_a_cam_of_a_list_takes_a_function_of_the_output():
    network = detector("fcos")
    pictures, _ = images()
    cam = LayerCAM(network)
    first = cam.attribute(pictures, lambda output: output[0]["scores"][:1])
    best = cam.attribute(pictures, Detection())
    for one, other in zip(first, best, strict=True):
        assert torch.equal(one, other)
