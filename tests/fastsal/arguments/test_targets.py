"""Targets on every kind of output, against Captum's LayerGradCam of a model that returns scores."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn

from fastsal import FastCAM, GradCAM, SMOEScale, SmoothGradCAMPlusPlus
from fastsal.arguments.targets import TargetError, select_scores

Named = namedtuple("Named", ["logits", "features"])


@dataclass
class Answer:
    scores: torch.Tensor
    boxes: torch.Tensor


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def trunk():
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(12, 4, 1),
        )


class Model(nn.Module):
    """A fully convolutional network: class scores at each location, and an output made of them."""

    def __init__(self, trunk, head):
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, x):
        return self.head(self.trunk(x))


def pooled(places):
    return places.mean((2, 3))


def of_scores(trunk, images, scores, target=None):
    """Captum's LayerGradCam of a model that returns the scores themselves."""
    model = Model(trunk, scores)
    return LayerGradCam(model, trunk[4]).attribute(images, target).detach()


def check(model, trunk, images, target, expected):
    result = GradCAM(model, trunk[4]).attribute(images, target, relu_attributions=False)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-8)
    assert expected.abs().max() > 1e-5
    fast = FastCAM(model, trunk[4])
    torch.testing.assert_close(
        fast.class_activation_map(images, target), expected[:, 0].relu(), rtol=1e-5, atol=1e-8
    )


def test_segmentation_by_a_mask(trunk, images):
    """The sum of a class's scores over the locations where that class is predicted."""

    def masked(places):
        seen = places.argmax(1) == 2
        return (places[:, 2] * seen).flatten(1).sum(1)

    with torch.no_grad():
        # Every class is seen somewhere.
        trunk[5].bias -= trunk(images).mean((0, 2, 3))
    assert 0 < (trunk(images).argmax(1) == 2).float().mean() < 1
    model = Model(trunk, lambda places: OrderedDict(out=places, aux=places[:, :1]))
    expected = of_scores(trunk, images, masked)
    check(model, trunk, images, lambda output: masked(output["out"]), expected)
    check(Model(trunk, nn.Identity()), trunk, images, masked, expected)


@pytest.mark.parametrize("target", [(2, 3, 5), [(0, 1, 2), (3, 7, 11)]], ids=repr)
def test_one_place_of_a_segmentation(trunk, images, target):
    expected = of_scores(trunk, images, nn.Identity(), target)
    check(Model(trunk, nn.Identity()), trunk, images, target, expected)


@pytest.mark.parametrize(
    ("head", "target"),
    [
        (lambda x: {"out": pooled(x), "aux": x}, lambda output: output["out"][:, 1]),
        (lambda x: (x, pooled(x)), lambda output: output[1][:, 1]),
        (lambda x: [pooled(x), x], lambda output: output[0][:, 1]),
        (lambda x: Named(pooled(x), x), lambda output: output.logits[:, 1]),
        (lambda x: Answer(pooled(x), x), lambda output: output.scores[:, 1]),
        (lambda x: {"deep": [{"er": pooled(x)}]}, lambda output: output["deep"][0]["er"][:, 1]),
        (pooled, lambda output: output[:, 1:2]),
    ],
    ids=["dict", "tuple", "list", "named tuple", "dataclass", "nested", "column"],
)
def test_a_callable_on_any_output(trunk, images, head, target):
    expected = of_scores(trunk, images, pooled, 1)
    check(Model(trunk, head), trunk, images, target, expected)


def test_detections(trunk, images):
    """A list with one dict for each image, with different numbers of boxes."""

    def detect(places):
        found = []
        for one in places:
            scores = one[1].flatten()
            found.append({"scores": scores[scores > scores.mean()], "boxes": one[:4, 0, :4].T})
        return found

    def best(output):
        return torch.stack([one["scores"].topk(3).values.sum() for one in output])

    counts = [len(one["scores"]) for one in detect(trunk(images))]
    assert counts[0] != counts[1]
    expected = of_scores(trunk, images, lambda x: x[:, 1].flatten(1).topk(3).values.sum(1))
    check(Model(trunk, detect), trunk, images, best, expected)


def test_no_target(trunk, images):
    predicted = pooled(trunk(images)).argmax(1)
    check(Model(trunk, pooled), trunk, images, None, of_scores(trunk, images, pooled, predicted))
    for shape in ((2,), (2, 1), (2, 1, 1)):
        head = Model(nn.Identity(), lambda x, shape=shape: pooled(x)[:, 1].reshape(shape))
        expected = of_scores(trunk, images, lambda x: pooled(x)[:, 1])
        check(Model(trunk, head), trunk, images, None, expected)


def test_of_equal_scores_the_first_class_is_the_predicted_one():
    output = torch.tensor([[1.0, 3.0, 3.0]], requires_grad=True)
    gradient = torch.autograd.grad(select_scores(output, None, 1).sum(), output)[0]
    assert gradient.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            lambda x: {"out": x, "aux": x},
            r"output is a dict with the keys 'out', 'aux'.*lambda output: output\['out'\]\[:, 0\]",
        ),
        (lambda x: (x, None), r"output is a tuple of \(2, 4, 8, 12\), NoneType.*output\[0\]\[:, 0"),
        (lambda x: [x], r"output is a list of \(2, 4, 8, 12\)"),
        (lambda x: Named(x, x), r"a Named with the fields logits, features.*output\.logits\[:, 0"),
        (lambda x: Answer(x, x), r"a Answer with the fields scores, boxes.*output\.scores\[:, 0\]"),
    ],
    ids=["dict", "tuple", "list", "named tuple", "dataclass"],
)
@pytest.mark.parametrize("target", [None, 1, [1, 2]], ids=repr)
def test_an_output_of_parts_is_told(trunk, images, head, message, target):
    model = Model(trunk, head)
    for attributor in (GradCAM(model, trunk[4]), FastCAM(model, trunk[4])):
        with pytest.raises(TargetError, match=message):
            attributor.attribute(images, target)
    # It takes no score, and needs no target.
    SMOEScale(model, trunk[4]).attribute(images)


def test_no_target_of_a_segmentation_is_told(trunk, images):
    attributor = GradCAM(Model(trunk, nn.Identity()), trunk[4])
    with pytest.raises(TargetError, match=r"shape \(2, 4, 8, 12\), and so no one predicted class"):
        attributor.attribute(images)
    # A row for each of other things than the images.
    rows = GradCAM(Model(trunk, lambda x: x.movedim(1, -1).reshape(-1, 4)), trunk[4])
    with pytest.raises(TargetError, match=r"shape \(192, 4\), and so no one predicted class"):
        rows.attribute(images)


@pytest.mark.parametrize(
    ("target", "got"),
    [
        (lambda output: output.sum(), r"\(\), expected one score for each of the 2"),
        (lambda output: output, r"\(2, 4\), expected one score"),
        (lambda output: output[:1, 0], r"\(1,\), expected one score"),
        (lambda _: 3.0, r"float, expected one score"),
        (lambda _: None, r"NoneType, expected one score"),
    ],
    ids=["sum", "whole", "one image", "number", "nothing"],
)
def test_a_callable_that_gives_something_else(trunk, images, target, got):
    with pytest.raises(TargetError, match=got):
        GradCAM(Model(trunk, pooled), trunk[4]).attribute(images, target)


def test_a_score_that_does_not_depend_on_the_layer(trunk, images):
    with pytest.raises(ValueError, match="score has no gradient by the CAM's layer"):
        GradCAM(Model(trunk, pooled), trunk[4]).attribute(images, lambda _: torch.ones(2))


@pytest.mark.parametrize(
    "target", [4, -5, [0, 4], [0], torch.tensor([0, 1, 2]), 1.5, (0, 0), [(0, 1), (1, 1)], "cat"]
)
def test_targets_that_do_not_fit(trunk, images, target):
    for attributor in (GradCAM, FastCAM, SMOEScale):
        with pytest.raises(TargetError, match=r"does not fit the model's output of shape \(2, 4\)"):
            attributor(Model(trunk, pooled), trunk[4]).attribute(images, target)


class Bag(nn.Module):
    """Images of a batch, or of each `size` of them, as one bag: one row of scores."""

    def __init__(self, trunk, size=None):
        super().__init__()
        self.trunk, self.size = trunk, size

    def forward(self, x):
        instances = self.trunk(x).flatten(2).mean(2)
        size = self.size or len(instances)
        attention = instances[:, :1].reshape(-1, size, 1).softmax(1)
        return (attention * instances.reshape(-1, size, instances.shape[1])).sum(1)


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("target", [1, (2,), torch.tensor([3])], ids=repr)
def test_a_bag_of_images_with_one_row_of_scores(trunk, size, target):
    images = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    bag = Bag(trunk, size)
    expected = LayerGradCam(bag, trunk[4]).attribute(images, target).detach()
    check(bag, trunk, images, target, expected)


@pytest.mark.parametrize("size", [None, 2])
def test_without_a_target_the_bag_s_class_is_explained(trunk, size):
    # As many images as classes: a row of a bag is not one number for each image.
    images = torch.rand(4, 3, 16, 24, generator=torch.Generator().manual_seed(5))
    bag = Bag(trunk, size)
    with torch.no_grad():
        best = bag(images).argmax(1)
    rows = torch.arange(len(best))
    layer = trunk[:5](images).detach().requires_grad_()
    output = Bag(trunk[5], size)(layer)
    (gradient,) = torch.autograd.grad(output[rows, best].sum(), layer)
    expected = (gradient.mean((2, 3), keepdim=True) * layer).sum(1, keepdim=True).detach()
    check(bag, trunk, images, None, expected)
    smooth = SmoothGradCAMPlusPlus(bag, trunk[4], samples=2)
    one = best[0].item() if size is None else lambda output: output[rows, best]
    assert torch.equal(smooth.attribute(images), smooth.attribute(images, one))


def test_a_divided_bag_is_refused(trunk, images):
    fast = FastCAM(Bag(trunk), trunk[4], max_batch=1)
    with pytest.raises(TargetError, match="leave out max_batch"):
        FastCAM(Bag(trunk), trunk[4], max_batch=2).attribute(torch.cat([images, images]), 1)
    # One image is its own bag; SMOE Scale reads no scores.
    assert fast.attribute(images[:1], 1).shape == (1, 3, 16, 24)
    divided = SMOEScale(Bag(trunk), max_batch=1).attribute(images)
    torch.testing.assert_close(divided, SMOEScale(Bag(trunk)).attribute(images))


def test_a_sequence_first_output_is_no_bag(trunk, images):
    model = Model(trunk, lambda places: places.mean(2).movedim(2, 0))
    with pytest.raises(TargetError, match="expected one score for each of the 2"):
        GradCAM(model, trunk[4]).attribute(images, (0, 1))
