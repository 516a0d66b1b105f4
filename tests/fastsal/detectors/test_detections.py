"""One map a detection: the boxes that a target selects, their scores, and where their maps lie."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.profiling.random_weights import enliven
from fastsal import Detection, Detections, FastCAM, GradCAM, HiResCAM, LayerCAM, SMOEScale
from fastsal.export import with_map
from fastsal.export.onnx import write_onnx
from fastsal.export.openvino import write_openvino
from reports.families.yolo import EndToEndYolo, Yolo
from tests.fastsal.detectors.localisation import STEPS, scenes, shares
from tests.fastsal.detectors.networks import detector, detr, images
from tests.fastsal.detectors.yolo import trained

pytestmark = pytest.mark.filterwarnings(
    "ignore:layer.* give negative activations", "ignore:.* is 0 everywhere"
)

SELECTED = [
    {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 8], [1, 1, 3, 3]]),
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.4, 0.9, 0.6]),
    },
    {
        "boxes": torch.tensor([[2.0, 2, 4, 4]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.7]),
    },
]
# Centre, size and three classes of five boxes: the second overlaps the first, the third does too
# but shows another class, the fourth is far, the last is sure of nothing.
RAW = torch.tensor(
    [
        [10.0, 10, 8, 8, 3, -3, -3],
        [11.0, 10, 8, 8, 2, -3, -3],
        [10.0, 11, 8, 8, -3, 1, -3],
        [40.0, 40, 6, 6, 1, -3, -3],
        [60.0, 60, 6, 6, -4, -5, -3],
    ]
)[None]


def test_boxes_that_torchvision_has_selected():
    first, second = Detections(score_above=0.5).found(SELECTED)
    assert first.places.tolist() == [1, 2]
    assert first.boxes.tolist() == [[4, 0, 8, 8], [1, 1, 3, 3]]
    assert second.labels.tolist() == [1]
    assert Detections(label=1, score_above=0.0).found(SELECTED)[0].places.tolist() == [2, 0]
    chosen = Detection(label=1)(SELECTED)
    torch.testing.assert_close(chosen, torch.tensor([0.6, 0.7]))


FORMS = ("boxes first", "channels first", "in a tuple", "sure", "objects", "segmented")


@pytest.mark.parametrize("form", FORMS)
def test_raw_boxes(form):
    raw = RAW
    if form == "sure":
        raw = torch.cat([raw[..., :4], raw[..., 4:].sigmoid()], 2)
    elif form == "objects":
        raw = torch.cat([raw[..., :4], torch.full((1, 5, 1), 9.0), raw[..., 4:]], 2)
    elif form == "segmented":
        raw = torch.cat([raw, 5 * torch.ones(1, 5, 2)], 2)
    output = raw.mT if form == "channels first" else raw
    output = (output, ["further"]) if form == "in a tuple" else output
    output = ((output, torch.ones(1, 2, 4, 4)), {}) if form == "segmented" else output
    extra = 2 if form == "segmented" else 0
    (found,) = Detections(classes=3, score_above=0.3, extra=extra).found(output)
    # The second is the first again.
    assert found.places.tolist() == [0, 2, 3] or found.places.tolist() == [0, 3, 2]
    assert sorted(found.labels.tolist()) == [0, 0, 1]
    assert found.boxes[0].tolist() == [6, 6, 14, 14]
    expected = 1 / (1 + np.exp(-3.0)) * (1 / (1 + np.exp(-9.0)) if form == "objects" else 1)
    assert float(found.scores[0]) == pytest.approx(expected, rel=1e-5)
    (every,) = Detections(classes=3, score_above=0.3, overlap=1.0, extra=extra).found(output)
    assert len(every.places) == 4


@pytest.mark.parametrize("names", ["logits", "pred_logits"])
def test_boxes_of_queries(names):
    logits = torch.tensor([[[2.0, 0, 1], [0, 3, 5], [1, 1, 0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4]] * 3])
    output = {names: logits, "pred_boxes": boxes}
    (found,) = Detections(classes=2, score_above=0.0).found(output)
    shares = np.exp(logits[0].numpy()) / np.exp(logits[0].numpy()).sum(1, keepdims=True)
    order = np.argsort(-shares[:, :2].max(1), kind="stable")
    assert found.places.tolist() == order.tolist()
    np.testing.assert_allclose(found.scores, shares[order, :2].max(1), rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [0.4, 0.3, 0.6, 0.7], rtol=1e-6)
    # All three are classes: the sigmoid of each.
    (all_classes,) = Detections(classes=3, score_above=0.0).found(output)
    assert all_classes.places.tolist() == [1, 0, 2]
    np.testing.assert_allclose(all_classes.scores[0], 1 / (1 + np.exp(-5.0)), rtol=1e-6)
    # The gradient is that of the logit, as Grad-CAM takes it before the softmax.
    assert Detection(classes=2)({"logits": logits, "pred_boxes": boxes}).item() == 2.0


# Left, top, right, bottom, score and class; the last row is padding.
END_TO_END = torch.tensor(
    [
        [[4.0, 0, 8, 8, 0.9, 2], [0, 0, 4, 4, 0.6, 17], [9, 9, 0, 0, 0, -1]],
        [[1.0, 1, 3, 3, 0.7, 17], [2, 2, 4, 4, 0.4, 2], [0, 0, 0, 0, 0, 0]],
    ]
)


@pytest.mark.parametrize("classes", [None, 80])
@pytest.mark.parametrize("form", ["alone", "in a tuple"])
def test_end_to_end_boxes(form, classes):
    output = END_TO_END if form == "alone" else (END_TO_END, {"one2many": []})
    first, second = Detections(score_above=0.5, classes=classes).found(output)
    assert first.boxes.tolist() == [[4, 0, 8, 8], [0, 0, 4, 4]]
    assert first.labels.tolist() == [2, 17]
    assert second.places.tolist() == [0]
    torch.testing.assert_close(
        Detection(label=2, classes=classes)(output), torch.tensor([0.9, 0.4])
    )
    # No suppression: the network has selected its boxes.
    (twice,) = Detections(score_above=0.5).found(END_TO_END[:1, [0, 0, 1]])
    assert len(twice.places) == 3


def test_six_columns_are_raw_where_the_classes_say_so_or_the_values_do_not_fit():
    (raw,) = Detections(classes=2, score_above=0.5, overlap=1.0).found(END_TO_END[:1])
    # Centre, width and height, and two scores of classes.
    assert raw.boxes[raw.places.tolist().index(0)].tolist() == [0, -4, 8, 4]
    for column, value in ((5, 0.5), (4, 1.5), (2, -1.0)):
        changed = END_TO_END.clone()
        changed[0, 0, column] = value
        with pytest.raises(ValueError, match=r"no end-to-end boxes.* give Detection\(classes="):
            Detection()(changed)


def selected_by_hand(raw, most):
    """The best scores of all boxes and classes, in a loop over all of them."""
    found = []
    for box in range(raw.shape[1]):
        x, y, w, h = raw[:4, box].tolist()
        for label, score in enumerate(raw[4:, box].sigmoid().tolist()):
            found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, label])
    return sorted(found, key=lambda row: -row[4])[:most]


def test_a_network_that_selects_its_boxes_end_to_end():
    torch.manual_seed(0)
    network = EndToEndYolo(side=96, most=7)
    image = images()[0][0][None]
    enliven(network, torch.rand(2, 3, 64, 96))
    output = network(image)
    expected = selected_by_hand(network.detector(image)[0].detach(), 7)
    np.testing.assert_allclose(output[0].detach(), expected, rtol=1e-4, atol=1e-4)
    above = float(output[0, 3, 4].detach())
    chosen = Detections(score_above=above)
    (found,) = chosen.found(output)
    assert found.places.tolist() == [0, 1, 2]
    (maps,) = FastCAM(network).attribute(image, chosen)
    assert maps.shape == (3, 3, 64, 96)
    for k in range(3):
        alone = FastCAM(network, cam="layercam").attribute(image, lambda out, k=k: out[:, k, 4])
        torch.testing.assert_close(maps[k], alone[0])


def test_heads_cut_off_from_the_gradient_are_told():
    torch.manual_seed(0)
    network = EndToEndYolo(side=96, most=7, detached=True)
    image = images()[0][0][None]
    enliven(network, torch.rand(2, 3, 64, 96))
    with pytest.raises(ValueError, match=r"has no gradient by the CAM's layer.* detach"):
        FastCAM(network).attribute(image, Detection())
    assert SMOEScale(network).maps(image).combined.std() > 0.05
    # The layers of the head have a gradient.
    head = network.detector.class_heads[0][0]
    assert LayerCAM(network, head).attribute(image, Detection()).shape == (1, 1, 12, 12)


def test_what_is_refused():
    with pytest.raises(ValueError, match="score_above must be in"):
        Detections(score_above=1.5)
    with pytest.raises(ValueError, match="index must be a whole number"):
        Detection(index=-1)
    with pytest.raises(ValueError, match=r"image 1 has 1 detection.* none with index 1"):
        Detection(index=1)(SELECTED)
    with pytest.raises(ValueError, match=r"give Detection\(classes="):
        Detection()(RAW)
    with pytest.raises(ValueError, match="got classes=5"):
        Detection(classes=5)(RAW)
    square = torch.rand(1, 7, 7)
    with pytest.raises(ValueError, match="both dimensions fit"):
        Detection(classes=3)(square)
    with pytest.raises(ValueError, match="classes=2 if the last is 'no object'"):
        Detection()({"logits": torch.rand(1, 4, 3), "pred_boxes": torch.rand(1, 4, 4)})
    with pytest.raises(ValueError, match="no boxes are known in a model's output of type Tensor"):
        Detection(classes=3)(torch.rand(2, 5))
    network = detector("fcos")
    with pytest.raises(ValueError, match="target of FastCAM"):
        SMOEScale(network).attribute(images()[0], Detections())


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos", "ssd"])
def test_one_map_for_each_box_of_torchvision(name):
    network = detector(name)
    pictures = images()[0][:2]
    with torch.no_grad():
        output = [network([image])[0] for image in pictures]
    above = min(float(one["scores"].min()) for one in output) - 1e-6
    chosen = Detections(score_above=above)
    counts = [len(one.places) for one in chosen.found(output)]
    fast = FastCAM(network)
    found = fast.attribute(pictures, chosen)
    for one, image, count in zip(found, pictures, counts, strict=True):
        assert one.shape == (count, *image.shape)
    # As by a function of the output.
    place = int(chosen.found(output)[1].places[1])
    local = FastCAM(network, cam="layercam")
    alone = local.attribute(pictures[1][None], lambda answer: answer[0]["scores"][place][None])
    torch.testing.assert_close(found[1][1], alone[0])
    empty = fast.attribute(pictures, Detections(score_above=1.0))
    assert [one.shape for one in empty] == [(0, *one.shape) for one in pictures]


def test_a_map_of_a_query_is_the_gradient_of_its_logit():
    network = detr()
    image = images()[0][0][None]
    with torch.no_grad():
        output = network(image)
    (found,) = Detections(classes=3, score_above=0.0).found(output)
    assert len(found.places) == 6
    layer = network.model.input_projection if hasattr(network.model, "input_projection") else None
    layer = layer or next(
        one
        for one in network.modules()
        if isinstance(one, torch.nn.Conv2d) and one.out_channels == 16 and one.kernel_size == (1, 1)
    )
    maps = HiResCAM(network, layer).attribute(image, Detections(classes=3, score_above=0.0))[0]
    kept = {}

    def keep(_, __, result):
        kept["tensor"] = result
        result.retain_grad()

    hook = layer.register_forward_hook(keep)
    for k in (0, 5):
        logits = network(image).logits
        logits[0, found.places[k], found.labels[k]].backward()
        expected = (kept["tensor"] * kept["tensor"].grad).sum(1).relu()
        torch.testing.assert_close(maps[k, 0], expected[0].detach(), rtol=1e-3, atol=1e-6)
    hook.remove()


def test_a_map_of_a_raw_box_is_that_of_its_number():
    torch.manual_seed(0)
    network = Yolo()
    image = images()[0][0][None]
    # With the statistics of images the scores differ in more than their last digits.
    enliven(network, torch.rand(4, 3, 96, 96))
    with torch.no_grad():
        scores = network(image)[0, 4:].sigmoid().amax(0).sort(descending=True).values
    chosen = Detections(classes=2, score_above=float(scores[3]), overlap=1.0)
    (found,) = chosen.found(network(image))
    assert len(found.places) == 3
    cam = GradCAM(network)
    (maps,) = cam.attribute(image, chosen)
    for k in (0, len(maps) - 1):
        place, label = int(found.places[k]), int(found.labels[k])
        alone = cam.attribute(image, lambda raw, row=4 + label, at=place: raw[:, row, at])
        assert torch.equal(maps[k], alone[0])


# Of each its classes, and the columns of its masks, key points and angle.
ULTRALYTICS = {
    "yolov8n": (80, 0),
    "yolo11n": (80, 0),
    "yolo26n": (80, 0),
    "yolov8n-seg": (80, 32),
    "yolov8n-pose": (1, 51),
    "yolov8n-obb": (80, 1),
}


@pytest.mark.parametrize("name", ULTRALYTICS)
def test_ultralytics_own(name):
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    network = ultralytics.YOLO(f"{name}.yaml").model.eval()
    image = torch.rand(1, 3, 64, 96)
    classes, extra = ULTRALYTICS[name]
    chosen = {"classes": classes, "extra": extra, "score_above": 0.0, "overlap": 0.1}
    (found,) = Detections(**chosen).found(network(image))
    assert found.labels.max() < classes
    cam = LayerCAM(network, network.model[9])
    first = cam.attribute(image, Detection(**chosen))
    place, row = int(found.places[0]), 4 + int(found.labels[0])

    def score(output):
        raw = output[0] if isinstance(output[0], torch.Tensor) else output[0][0]
        return raw[:, row, place]

    torch.testing.assert_close(first, cam.attribute(image, score))
    many = cam.attribute(image, Detections(**chosen | {"score_above": float(found.scores[2])}))
    torch.testing.assert_close(many[0][0], first[0])


@pytest.fixture(scope="module")
def network():
    return trained(STEPS)


@pytest.mark.slow
@pytest.mark.training
def test_maps_of_two_objects_of_one_class_lie_each_in_its_own_box(network):
    found = scenes(network, 4, ((96, 96), (96, 120), (110, 130)))
    own, other = shares(FastCAM(network), found)
    # Local gradients find the object that is asked for; means over all locations do not.
    assert all(one > another for one, another in zip(own, other, strict=True))
    assert np.mean(own) > 2 * np.mean(other)
    mean, _ = shares(FastCAM(network, cam="gradcam"), found)
    assert np.mean(own) > 1.5 * np.mean(mean)
    near, far = shares(FastCAM(network, "stage8"), found)
    assert np.mean(near) > np.mean(own)
    assert np.mean(near) > 4 * np.mean(far)


@pytest.mark.heavy
@pytest.mark.parametrize("write", [write_onnx, write_openvino])
def test_the_exported_detector_has_the_boxes_and_the_map(write, tmp_path):
    pytest.importorskip("onnxruntime")
    suffix = "xml" if write is write_openvino else "onnx"
    if suffix == "xml":
        pytest.importorskip("openvino")
    torch.manual_seed(0)
    network = Yolo().eval()
    image = images()[0][0][None]
    path = tmp_path / f"detector.{suffix}"
    written = write(with_map(network, image), image, path)
    assert written.outputs[:2] == ("output", "map")
    if suffix == "xml":
        import openvino

        model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        output, saliency = list(model(image.numpy()).values())[:2]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        output, saliency = session.run(None, {"input": image.numpy()})[:2]
    np.testing.assert_allclose(output, network(image).detach(), rtol=1e-3, atol=1e-3)
    expected = SMOEScale(network).attribute(image, expand_channels=False)[:, 0]
    assert np.abs(saliency - expected.numpy()).mean() < 1e-3
    assert F.l1_loss(torch.tensor(saliency), expected.flip(2)) > 0.01


@pytest.mark.heavy
def test_end_to_end_boxes_are_exported_with_their_map(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = EndToEndYolo(side=96, most=40)
    image = images()[0][0][None]
    enliven(network, torch.rand(2, 3, 64, 96))
    path = tmp_path / "detector.onnx"
    assert write_onnx(with_map(network, image), image, path).outputs[:2] == ("output", "map")
    session = onnxruntime.InferenceSession(str(path))
    output, saliency = session.run(["output", "map"], {"input": image.numpy()})
    np.testing.assert_allclose(output, network(image).detach(), rtol=1e-3, atol=1e-3)
    (found,) = Detections(score_above=0.5).found(torch.from_numpy(output))
    assert len(found.places) >= 2
    expected = SMOEScale(network).attribute(image, expand_channels=False)[:, 0]
    assert np.abs(saliency - expected.numpy()).mean() < 1e-3
