"""Traps for hooks: the map equals that of the network without the trap, or there is an error."""

import copy
import io
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastsal import SMOEScale, smoe_scale
from fastsal.maps.normalization import get_normalization

pytestmark = pytest.mark.heavy


@pytest.fixture
def model(small_network):
    return small_network()


@pytest.fixture
def images(small_images):
    return small_images


def assert_same(result, expected, share=1e-6):
    """Equal to a share of the largest value, whatever the unit of the map."""
    torch.testing.assert_close(result, expected, rtol=0, atol=share * expected.max().item())


def test_in_place_relus(small_network, images, method):
    inplace, plain = small_network(inplace=True), small_network()
    assert torch.equal(method(inplace).attribute(images, 1), method(plain).attribute(images, 1))
    # Each is followed by a ReLU that overwrites its output.
    for index in (1, 5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = method(inplace, inplace[index]).attribute(images, 1)
            expected = method(plain, plain[index]).attribute(images, 1)
        assert torch.equal(result, expected)


class Functional(nn.Module):
    """The small network with functional ReLUs, which write in place."""

    def __init__(self, net):
        super().__init__()
        self.conv1, self.bn, self.conv2, self.fc = net[0], net[1], net[5], net[9]

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn(self.conv1(x)), inplace=True), 2)
        x = F.relu(self.conv2(x), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Reused(nn.Module):
    """The small network with one ReLU for both places."""

    def __init__(self, net, inplace=False):
        super().__init__()
        self.relu = nn.ReLU(inplace)
        self.conv1, self.bn, self.conv2, self.fc = net[0], net[1], net[5], net[9]

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.bn(self.conv1(x))), 2)
        x = self.relu(self.conv2(x))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.mark.parametrize(
    "trap", [Functional, Reused, partial(Reused, inplace=True)], ids=["functional", "", "in place"]
)
def test_functional_and_reused_relus(model, images, method, trap):
    expected = method(model).attribute(images, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(method(trap(model)).attribute(images, 1), expected)


def test_of_a_reused_layer_the_last_call_is_read(model, images, method):
    reused = Reused(model)
    expected = method(model, model[6]).attribute(images, 1)
    assert_same(method(reused, reused.relu).attribute(images, 1), expected)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Identity])
def test_signed_activations_count_as_after_a_relu(model, images, activation):
    net = nn.Sequential(*model[:2], activation(), *model[3:6], activation()).eval()
    for index in (2, 6):
        attributor = SMOEScale(net, net[index])
        with pytest.warns(UserWarning, match=rf"layer\(s\) {index} give negative") as caught:
            result = attributor.attribute(images)
        assert len(caught) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(attributor.attribute(images), result)
        cut = nn.Sequential(*net[: index + 1], nn.ReLU())
        assert torch.equal(SMOEScale(cut, cut[-1]).attribute(images), result)


def test_signed_activations_give_no_nan(model, images, method):
    net = nn.Sequential(*model[:2], nn.GELU(), *model[3:6], nn.GELU(), *model[7:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = method(net).attribute(images, 1)
    assert result.isfinite().all()
    assert (result.flatten(1).std(1) > 0).all()


def pointwise_network():
    """Locations that do not see each other: a constant image gives constant maps."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU()
        )
        net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)])
        for index in (0, 3, 7):
            nn.init.uniform_(net[index].weight, 0.1, 1)
    return net


def test_constant_maps_are_one_half(image_method):
    net = pointwise_network()
    result = image_method(net).attribute(torch.full((2, 3, 8, 12), 0.3), 1)
    assert_same(result, torch.full((2, 3, 8, 12), 0.5))


def test_constant_maps_of_a_layer(cam_method):
    result = cam_method(pointwise_network()).attribute(torch.full((2, 3, 8, 12), 0.3), 1)
    assert (result > 0).all()
    assert_same(result, result[:1, :1, :1, :1].expand_as(result))


def test_a_map_of_one_location(model, images, method):
    """A layer of one location says nothing about places: 0.5 in SMOE Scale, 1 in its own CAM."""
    net = nn.Sequential(*model[:7], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    nn.init.constant_(net[9].weight, 0.1)
    result = method(net, net[7]).attribute(images, 1)
    if method is SMOEScale:
        assert_same(result, torch.full_like(images, 0.5))
    elif result.shape == images.shape:
        assert_same(result, SMOEScale(net).attribute(images))
    else:
        assert result.shape == (3, 1, 1, 1)
        assert (result > 0).all()


PRECISIONS = {torch.bfloat16: 3e-2, torch.float16: 5e-3, torch.float64: 1e-6}


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_other_precisions(small_network, images, method, dtype):
    expected = method(small_network()).attribute(images, 1)
    result = method(small_network().to(dtype)).attribute(images.to(dtype), 1)
    # Finer than half-precision inputs; never coarser than the input.
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (result - expected).abs().mean() / expected.mean()
    assert error < PRECISIONS[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_in_single_precision_whatever_comes_in(small_network, images, dtype):
    net = small_network().to(dtype)
    with torch.no_grad():
        activations = net[:7](images.to(dtype))
    maps = SMOEScale(net, net[6]).maps(images.to(dtype))
    expected = get_normalization("gaussian")(smoe_scale(activations.float()))
    torch.testing.assert_close(maps.per_scale[0], expected, rtol=0, atol=1e-6)


def test_autocast(model, images, untouched, method):
    expected = method(model).attribute(images, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16), untouched(model, images):
        result = method(model).attribute(images, 1)
    assert result.dtype == torch.float32
    assert not torch.equal(result, expected)
    assert (result - expected).abs().mean() / expected.mean() < 3e-2


def test_autocast_leaves_the_gradients_of_a_training_step(model, images, method):
    """Weights that are cast without gradients must not be kept for the user's own pass."""

    def gradients(attributor=None):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if attributor is not None:
                attributor.attribute(images, 1)
            model(images).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for result, expected in zip(gradients(method(model)), gradients(), strict=True):
        assert torch.equal(result, expected)


def test_the_memory_format_of_channels_last(small_network, images, method):
    expected = method(small_network()).attribute(images, 1)
    net = small_network().to(memory_format=torch.channels_last)
    result = method(net).attribute(images.contiguous(memory_format=torch.channels_last), 1)
    assert result.is_contiguous()
    assert_same(result, expected, 1e-4)


class Counting:
    """A compiler's backend that counts the graphs and runs them unchanged."""

    def __init__(self):
        self.graphs = 0
        self.runs = 0

    def __call__(self, graph, _):
        self.graphs += 1

        def run(*arguments):
            self.runs += 1
            return graph.forward(*arguments)

        return run


def compiled_whole(model, backend):
    return torch.compile(model, backend=backend)


class Whole(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def compiled_in_place(model, backend):
    net = Whole(model)
    net.compile(backend=backend)
    return net


def compiled_part(model, backend):
    model[5] = torch.compile(model[5], backend=backend)
    return model


def compiled_inside(model, backend):
    return nn.Sequential(*model[:5], torch.compile(model[5:], backend=backend))


@pytest.mark.parametrize(
    "compiled", [compiled_whole, compiled_in_place, compiled_part, compiled_inside]
)
def test_compiled_models(model, images, method, compiled):
    layer = model[6]
    expected = method(model).attribute(images, 1)
    of_layer = method(model, layer).attribute(images, 1)
    torch.compiler.reset()
    backend = Counting()
    net = compiled(model, backend)
    # Hooks that are set after the first call of a compiled module would never run.
    with torch.no_grad():
        output = net(images)
    assert backend.runs == 1
    assert torch.equal(method(net).attribute(images, 1), expected)
    assert torch.equal(method(net, layer).attribute(images, 1), of_layer)
    # The model is still compiled, and was not compiled again.
    graphs = backend.graphs
    with torch.no_grad():
        assert torch.equal(net(images), output)
    assert backend.graphs == graphs
    assert backend.runs == 2


@pytest.mark.parametrize("by", ["torch.compile", "model.compile()", "a compiled function"])
def test_a_function_around_a_compiled_model(model, images, method, by):
    torch.compiler.reset()
    options = {} if not hasattr(method(model), "smoe") else {"scales": model[6]}
    expected = method(model, model[6], **options).attribute(images, 1)
    if by == "torch.compile":
        net = torch.compile(model, backend="eager")
    elif by == "model.compile()":
        model.compile(backend="eager")
        net = model
    else:
        net = torch.compile(lambda x: model(x), backend="eager")
    with torch.no_grad():
        net(images)
    attributor = method(lambda x: net(x), model[6], **options)
    for _ in range(2):
        assert torch.allclose(attributor.attribute(images, 1), expected, rtol=1e-5, atol=1e-6)


def test_scripted_and_traced_models(model, images, method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, traced = torch.jit.script(model), torch.jit.trace(model, images)
    for net in (scripted, traced):
        for layer in (None, "6"):
            with pytest.raises(ValueError, match="scripted or traced"):
                method(net, layer).attribute(images, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(model, images, method, mode):
    expected = method(model).attribute(images, 1)
    attributor = method(model)
    with mode():
        inside = images.clone()
        assert torch.equal(attributor.attribute(inside, 1), expected)
        early = method(model).attribute(images, 1)
    assert torch.equal(early, expected)
    # Images made in inference mode and used outside, with scales that were found inside.
    result = attributor.attribute(inside, 1)
    assert torch.equal(result, expected)
    assert not result.requires_grad
    assert not result.is_inference()


def test_a_model_made_under_inference_mode(small_network, images):
    expected = SMOEScale(small_network()).attribute(images)
    with torch.inference_mode():
        model = small_network()
    assert torch.equal(SMOEScale(model).attribute(images), expected)


def test_no_gradients_in_a_model_made_under_inference_mode(small_network, images, gradient_method):
    with torch.inference_mode():
        model = small_network()
    attributor = gradient_method(model)
    for mode in (torch.enable_grad, torch.inference_mode):
        with mode(), pytest.raises(ValueError, match=r"made under inference_mode.*outside it"):
            attributor.attribute(images, 1)


def test_frozen_parameters(small_network, images, method):
    expected = method(small_network()).attribute(images, 1)
    for frozen in (slice(None), slice(6), slice(6, None)):
        model = small_network()
        model[frozen].requires_grad_(False)
        assert torch.equal(method(model).attribute(images, 1), expected)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("called", [False, True], ids=["before a call", "after a call"])
def test_copies_of_model_and_attributor(model, images, maker, copied, called):
    attributor = maker(model)
    given = maker(model, model[6])
    if called:
        attributor.attribute(images, 1)
        given.attribute(images, 1)
    other_model, other, other_given = copied((model, attributor, given))
    expected = attributor.attribute(images, 1)
    assert torch.equal(other.attribute(images, 1), expected)
    # The copies are of one another, and of nothing else.
    with torch.no_grad():
        other_model[5].weight.add_(0.05)
    changed = other.attribute(images, 1)
    assert torch.equal(changed, maker(other_model).attribute(images, 1))
    assert not torch.equal(changed, expected)
    assert torch.equal(attributor.attribute(images, 1), expected)
    by_layer = maker(other_model, other_model[6]).attribute(images, 1)
    assert torch.equal(other_given.attribute(images, 1), by_layer)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_a_copy_of_the_model_alone(model, images, method, copied):
    method(model).attribute(images, 1)
    other = copied(model)
    assert torch.equal(other(images), model(images))
    assert torch.equal(method(other).attribute(images, 1), method(model).attribute(images, 1))
