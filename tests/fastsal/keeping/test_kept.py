"""A model is after a map what it was before it, whatever its `train` and its passes change."""

import random
import warnings
from collections import Counter, deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from fastsal import SMOEScale
from fastsal.keeping.kept import kept
from fastsal.keeping.parts import parts


def with_part(small_network, part):
    layers = list(small_network())
    return nn.Sequential(*layers[:5], part, *layers[5:])


class OwnTrain(nn.Module):
    """Dropout that follows an attribute, set by a `train` of its own, which freezes as well."""

    def __init__(self):
        super().__init__()
        self.share = 0.0
        self.inner = nn.Dropout(0.3)
        self.scale = nn.Parameter(torch.ones(1))

    def train(self, mode=True):
        self.share = 0.5 if mode else 0.0
        self.inner.p = 0.7
        self.scale.requires_grad_(mode)
        return super().train(mode)

    def forward(self, x):
        return self.inner(F.dropout(x, self.share) * self.scale)


class NoFlag(OwnTrain):
    """The same, and `train` leaves the flag as it is."""

    def train(self, mode=True):
        self.share = 0.5 if mode else 0.0
        return self


class Eval(nn.Module):
    """An `eval` of its own, as a class that merges weights at evaluation has."""

    def __init__(self):
        super().__init__()
        self.noise = 1.0

    def eval(self):
        super().eval()
        self.noise = 0.0
        return self

    def train(self, mode=True):
        self.noise = float(mode)
        return super().train(mode)

    def forward(self, x):
        return x + self.noise * torch.rand_like(x)


@pytest.mark.parametrize("part", [OwnTrain, NoFlag, Eval])
def test_train_and_eval_of_ones_own(small_network, small_images, untouched, maker, part):
    expected = maker(with_part(small_network, part()).eval()).attribute(small_images, 1)
    model = with_part(small_network, part()).train()
    model[0].eval()
    model[5].kept_in = "the dictionary"
    if part is not Eval:
        # As the user left it, though `train` would set it again.
        model[5].inner.p = 0.2
    before = [dict(vars(module)) for module in model.modules()]
    with untouched(model, small_images):
        attributor = maker(model)
        for _ in range(2):
            assert torch.equal(attributor.attribute(small_images, 1), expected)
    assert [dict(vars(module)) for module in model.modules()] == before


def test_a_feature_extractor_in_training_mode(small_network, small_images, maker):
    def extractor():
        return create_feature_extractor(small_network(), {"9": "scores"})

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.extractor = extractor()

        def forward(self, x):
            return self.extractor(x)["scores"]

    expected = maker(small_network()).attribute(small_images, 1)
    model = Scores().train()
    graph = model.extractor.graph
    for _ in range(2):
        result = maker(model).attribute(small_images, 1)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert model.extractor.graph is graph
    assert all(module.training for module in model.modules())
    # Dropout is on, as before.
    assert not torch.equal(model(small_images), model(small_images))


class Meter:
    def __init__(self):
        self.sum, self.values = 0.0, []

    def update(self, value):
        self.sum += value
        self.values.append(value)


class Written(nn.Module):
    """All kinds of state that a forward may write to; the output depends on most of it."""

    def __init__(self):
        super().__init__()
        for name in ("count", "mean", "replaced"):
            self.register_buffer(name, torch.zeros(8))
        with torch.inference_mode():
            self.register_buffer("made_in_inference_mode", torch.zeros(3))
        self.calls, self.maximum = 0, None
        self.log, self.long_log, self.last = [], [0] * 5000, deque(maxlen=2)
        self.kinds, self.counts, self.seen = {"n": 0}, Counter(), set()
        self.tensor, self.array = torch.zeros(3), np.zeros(3)
        self.meter, self.nested = Meter(), [{"a": [0]}]
        self.norms = [nn.BatchNorm2d(8), {"inner": nn.BatchNorm2d(8)}]

    def forward(self, x):
        self.count += 1
        self.mean.mul_(0.9).add_(x.detach().mean((0, 2, 3)))
        self.replaced = self.replaced + 1
        with torch.inference_mode():
            self.made_in_inference_mode.add_(1)
        self.calls += 1
        self.maximum = x.detach().amax()
        self.log.append(x.detach())
        self.long_log.append(1)
        self.last.append(x.shape)
        self.kinds["n"] += 1
        self.counts[str(x.shape)] += 1
        self.seen.add(self.calls)
        self.tensor.add_(1)
        self.array += 1
        self.meter.update(x.detach().mean().item())
        self.nested[0]["a"].append(1)
        self.new = 1
        noise = torch.rand(1) + random.random() + np.random.rand()  # noqa: NPY002
        scale = self.count.mean() + self.calls + self.tensor.sum() + self.array.sum() + noise
        x = self.norms[1]["inner"](self.norms[0](x))
        return x.relu() * float(scale) + self.mean[:, None, None]

    def picture(self):
        norms = [self.norms[0], self.norms[1]["inner"]]
        state = {
            **dict(self.named_buffers()),
            **{name: value for name, value in vars(self).items() if not name.startswith("_")},
            "norms": [list(norm.state_dict().values()) for norm in norms],
            "meter": vars(self.meter),
            "ids": [id(buffer) for buffer in self.buffers()],
            "random": (torch.get_rng_state().sum(), random.getstate(), np.random.get_state()[1:]),  # noqa: NPY002
        }
        return repr(state)


@pytest.mark.parametrize("training", [True, False])
def test_what_a_forward_writes(small_network, small_images, maker, training):
    written = Written()
    model = with_part(small_network, written).train(training)
    attributor, results = maker(model), []
    for _ in range(3):
        before = written.picture()
        results.append(attributor.attribute(small_images, 1))
        assert written.picture() == before
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    # A pass of the user's own writes, and the next map starts from there.
    model(small_images)
    before = written.picture()
    assert not torch.equal(attributor.attribute(small_images, 1), results[0])
    assert written.picture() == before


def test_the_map_is_that_of_a_plain_pass_from_the_same_state(small_network, small_images):
    """By hand: a copy of the network, and SMOE Scale of what a hook sees there."""
    model = with_part(small_network, Written()).eval()
    seen = []
    twin = with_part(small_network, Written()).eval()
    twin[5].register_forward_hook(lambda _, __, output: seen.append(output))
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    twin(small_images)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    result = SMOEScale(model, model[5], normalize="none").maps(small_images)
    plain = nn.Sequential(nn.Identity())
    wanted = SMOEScale(plain, plain[0], normalize="none").maps(seen[0])
    torch.testing.assert_close(result.per_scale[0], wanted.per_scale[0])


class Functional(nn.Module):
    """Batch statistics in a function, whose writes PyTorch does not count."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


def observed():
    from torch.ao import quantization

    return nn.Sequential(
        quantization.MovingAverageMinMaxObserver(), quantization.HistogramObserver()
    )


def fused():
    from torch.ao import quantization

    return quantization.FusedMovingAvgObsFakeQuantize()


def spectral():
    layer = nn.Conv2d(8, 8, 3, padding=1)
    return nn.utils.parametrizations.spectral_norm(layer)


def old_spectral():
    return nn.utils.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", [Functional, observed, fused, spectral, old_spectral])
def test_writes_of_libraries(small_network, small_images, maker, part):
    torch.manual_seed(0)
    model = with_part(small_network, part()).train()
    model(small_images)
    attributor = maker(model)
    for step in range(3):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        weights = [id(vars(module).get("weight")) for module in model.modules()]
        held = [id(value) for value in model.buffers()]
        results = [attributor.attribute(small_images * (step + 1), 1) for _ in range(2)]
        assert torch.equal(*results)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert [id(value) for value in model.buffers()] == held
        assert [id(vars(module).get("weight")) for module in model.modules()] == weights
        model(small_images)


def test_a_layer_that_is_made_at_its_first_use_stays(small_network, small_images):
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = None

        def forward(self, x):
            if self.layer is None:
                self.layer = nn.Conv2d(x.shape[1], 8, 1)
            return self.layer(x)

    model = with_part(small_network, Lazy())
    attributor = SMOEScale(model)
    result = attributor.attribute(small_images)
    assert isinstance(model[5].layer, nn.Conv2d)
    assert torch.equal(attributor.attribute(small_images), result)


def test_no_copies_while_nothing_is_written(small_network, small_images, monkeypatch):
    """The steady state compares versions, and copies no buffer."""
    model = small_network()
    attributor = SMOEScale(model)
    attributor.attribute(small_images)
    copies = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: copies.append(self) or clone(self))
    attributor.attribute(small_images)
    assert not copies
    model[1].running_mean.add_(1)
    attributor.attribute(small_images)
    assert len(copies) == 1


def test_nested_and_overlapping_blocks(small_network):
    model = small_network().train()
    model[1].register_buffer("calls", torch.zeros(1))
    with kept(model, parts(model)):
        with kept(model[1], parts(model[1])):
            model[1].calls.add_(1)
        with kept(model, parts(model)):
            model[1].calls.add_(1)
        # A pass goes on through that part.
        assert model[1].calls == 2
        assert not any(module.training for module in model.modules())
    assert model[1].calls == 0
    assert all(module.training for module in model.modules())


def test_an_eval_that_raises(small_network, small_images, untouched, method):
    class Raising(nn.Identity):
        def train(self, mode=True):
            if not mode:
                raise RuntimeError("planted in eval")
            return super().train(mode)

    model = with_part(small_network, Raising()).train()
    with untouched(model, small_images), pytest.raises(RuntimeError, match="planted in eval"):
        method(model).attribute(small_images, 1)


def test_a_model_without_state_warns_of_nothing(small_network, small_images, method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method(small_network()).attribute(small_images, 1)
