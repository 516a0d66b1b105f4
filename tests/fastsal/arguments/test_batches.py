"""Maps of a batch split by `max_batch` equal those of the whole batch."""

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from evaluation.profiling.memory import peak_bytes
from fastsal import FastCAM, SMOEScale
from fastsal.arguments.batches import joined_outputs
from fastsal.arguments.targets import TargetError


class Net(nn.Module):
    """Two scales; a shift for each image, a factor for all; counts the images of each pass."""

    def __init__(self, output=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)
        self.output = output

    def forward(self, images, shift=0, factors=(1,)):
        # Attributes of the network are put back after a pass.
        SEEN.append(len(images))
        if isinstance(shift, torch.Tensor):
            shift = shift.reshape(-1, 1, 1, 1)
        x = self.first((images + shift) * factors[0])
        return self.output(self.head(self.second(self.pool(x)).mean((2, 3))))


SEEN: list[int] = []
IMAGES = torch.rand(5, 3, 12, 10, generator=torch.Generator().manual_seed(1))
SHIFT = torch.linspace(0, 1, 5)
LAYERS = ["first", "second"]
TARGETS = {
    "one": 2,
    "list": [0, 1, 2, 3, 0],
    "tensor": torch.tensor([3, 2, 1, 0, 1]),
    "one in a tensor": torch.tensor(1),
    "tuples": [(0,), (1,), (2,), (3,), (0,)],
    "callable": lambda output: output[:, 1],
    "none": None,
}
ARGUMENTS = {
    "none": None,
    "for each image": SHIFT,
    "a factor for all": (SHIFT, (torch.tensor(2.0),)),
    "a factor for all, of one entry": (SHIFT, (torch.tensor([0.5]),)),
    "no tensor": (0.25,),
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", [SMOEScale, FastCAM])
@pytest.mark.filterwarnings("ignore:gradcam is 0 everywhere")
def test_attributions(method, target, arguments):
    options = {"layers": LAYERS} if method is SMOEScale else {"layer": "second", "scales": LAYERS}
    net = Net()
    given = (IMAGES, TARGETS[target], ARGUMENTS[arguments])
    whole = method(net, **options).attribute(*given)
    for most in (1, 2, 5, 9):
        SEEN.clear()
        in_parts = method(net, **options, max_batch=most).attribute(*given)
        # A convolution of other batches may add in another order; other images differ by 0.1.
        torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-4)
        assert sum(SEEN) == 5
        assert max(SEEN) == min(most, 5)


@pytest.mark.parametrize("normalize", ["gaussian", "minmax", "none"])
@pytest.mark.parametrize("over", ["image", "batch"])
def test_maps_and_logits(normalize, over):
    options = {"normalize": normalize, "normalize_over": over}
    images = IMAGES * torch.arange(1, 6).reshape(-1, 1, 1, 1)
    whole = SMOEScale(Net(), **options).maps(images)
    in_parts = SMOEScale(Net(), **options, max_batch=2).maps(images)
    torch.testing.assert_close(in_parts.combined, whole.combined, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(in_parts.logits, whole.logits)
    for part, expected in zip(in_parts.per_scale, whole.per_scale, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)


def test_a_tuple_of_inputs():
    inputs = (IMAGES, SHIFT.reshape(-1, 1))
    with pytest.warns(UserWarning, match="no image batch"):
        whole, in_parts = (SMOEScale(Net(), max_batch=most).attribute(inputs) for most in (None, 2))
    torch.testing.assert_close(in_parts[0], whole[0], rtol=1e-5, atol=1e-6)


def test_a_class_activation_map_alone():
    whole = FastCAM(Net(), "second").class_activation_map(IMAGES, 1)
    in_parts = FastCAM(Net(), "second", max_batch=3).class_activation_map(IMAGES, 1)
    torch.testing.assert_close(in_parts, whole)


Pair = namedtuple("Pair", ["logits", "count"])


def test_outputs_of_every_form():
    logits = torch.arange(6.0).reshape(3, 2)
    parts = [logits[:2], logits[2:]]
    assert torch.equal(joined_outputs(parts), logits)
    for form in (dict, OrderedDict):
        joined = joined_outputs([form(logits=part, kind="x") for part in parts])
        assert type(joined) is form
        assert torch.equal(joined["logits"], logits)
        assert joined["kind"] == "x"
    joined = joined_outputs([Pair(part, (part,)) for part in parts])
    assert isinstance(joined, Pair)
    assert torch.equal(joined.count[0], logits)
    # A detection model gives a list with an entry for each image.
    assert joined_outputs([[{"boxes": 1}, {"boxes": 2}], [{"boxes": 3}]]) == [
        {"boxes": 1},
        {"boxes": 2},
        {"boxes": 3},
    ]


def test_a_part_at_a_time_is_in_memory():
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def peak(most):
        attributor = SMOEScale(Net(), LAYERS, max_batch=most)
        attributor.attribute(images)
        with torch.no_grad():
            return peak_bytes(lambda: attributor.attribute(images, expand_channels=False))

    # The first layer and its ReLU, six channels each, beside one map.
    assert peak(None) >= 16 * 2 * 6 * 32 * 32 * 4
    assert peak(1) <= peak(None) / 4


@pytest.mark.parametrize("most", [0, -1, 2.0, True, "2"])
def test_bad_sizes(most):
    for make in (SMOEScale, FastCAM):
        with pytest.raises(ValueError, match=f"max_batch is .* got {most!r}"):
            make(Net(), max_batch=most)


def test_a_target_for_other_images_is_refused_in_parts_too():
    for make in (SMOEScale, FastCAM):
        with pytest.raises(TargetError, match=r"target \[0, 1, 2, 3\] does not fit"):
            make(Net(), max_batch=2).attribute(IMAGES, [0, 1, 2, 3])
