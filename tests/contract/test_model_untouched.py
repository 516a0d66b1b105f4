"""After every call, right or wrong, the model and global state are bit for bit unchanged."""

import dataclasses
import warnings
from contextlib import nullcontext

import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

from fastsal import SMOEScale

MODES = {
    "gradients": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.fixture
def model(small_network):
    """A mixture of modes, of frozen and free parameters, with gradients on some."""
    net = small_network().train()
    net[1].eval()
    net[5].requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    net[2].register_forward_hook(lambda *_: None)
    net[6].register_forward_pre_hook(lambda *_: None)
    net[9].register_full_backward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_after_a_call(model, small_images, untouched, maker, mode):
    with mode(), untouched(model, small_images):
        attributor = maker(model)
        first = attributor.attribute(small_images, 1)
        assert torch.equal(attributor.attribute(small_images, 1), first)
        attributor.attribute((small_images,), [0, 1, 2], None, attribute_to_layer_input=True)
        assert not first.requires_grad
        # The tunnel itself draws random numbers.
        with torch.random.fork_rng():
            NoiseTunnel(maker(model)).attribute(small_images, nt_samples=2, stdevs=0.1, target=1)


def test_inputs_with_gradients(model, small_images, untouched, method):
    expected = method(model).attribute(small_images, 1)
    small_images.requires_grad_()
    small_images.grad = torch.ones_like(small_images)
    with untouched(model, small_images):
        result = method(model).attribute(small_images, 1)
    assert torch.equal(result, expected)
    assert not result.requires_grad
    assert torch.equal(small_images.grad, torch.ones_like(small_images))


def test_train_mode_gives_the_map_of_evaluation_mode(
    small_network, small_images, untouched, method
):
    expected = method(small_network()).attribute(small_images, 1)
    # BatchNorm would take the batch's own statistics, and dropout a share of the activations.
    model = small_network().train()
    with untouched(model, small_images):
        assert torch.equal(method(model).attribute(small_images, 1), expected)


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class First(nn.Module):
    def forward(self, pair):
        return pair[0]


class BackwardRaises(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(*_):
        raise RuntimeError("planted in backward")


class NoWayBack(nn.Module):
    def forward(self, x):
        return BackwardRaises.apply(x)


def raising_hook(*_):
    raise RuntimeError("planted in a hook")


def raising_target(_):
    raise RuntimeError("planted in the target")


def plant_layer(model):
    model[7] = Raising(RuntimeError("planted in a layer"))


def plant_interrupt(model):
    model[4] = Raising(KeyboardInterrupt("planted"))


def plant_hook(model):
    model[6].register_forward_hook(raising_hook)


def plant_backward(model):
    model[8] = nn.Sequential(NoWayBack(), model[8])


def plant_pair(model):
    model[6] = nn.Sequential(model[6], Pair(), First())
    return {"layer": model[6][1]}


def plant_spare(model):
    return {"layer": nn.ReLU()}


# The planted module, the arguments of the call, the error and its message.
FAILURES = {
    "a layer": (plant_layer, {}, RuntimeError, "planted in a layer"),
    "an interrupt": (plant_interrupt, {}, KeyboardInterrupt, "planted"),
    "a foreign hook": (plant_hook, {}, RuntimeError, "planted in a hook"),
    "a pair of tensors": (plant_pair, {}, ValueError, "gives 2 tensors"),
    "a layer not run": (plant_spare, {}, ValueError, "did not run"),
    "the target": (None, {"target": 99}, ValueError, "does not fit"),
    "the arguments": (None, {"additional_forward_args": 1}, TypeError, "positional"),
    "not finite": (None, {"inputs": torch.full((3, 3, 16, 24), torch.nan)}, ValueError, "finite"),
    "an empty list": (None, {"inputs": []}, ValueError, "at least one image"),
    "a list of batches": (
        None,
        {"inputs": [torch.rand(3, 3, 16, 24)]},
        TypeError,
        "for each image",
    ),
    "no image": (
        None,
        {"inputs": torch.rand(3, 4)},
        (ValueError, RuntimeError),
        "image batch|Expected 3D",
    ),
}
GRADIENT_FAILURES = {
    "the backward": (plant_backward, {}, ValueError, "planted in backward"),
    "a called target": (None, {"target": raising_target}, RuntimeError, "planted in the target"),
    "a constant": (None, {"target": lambda out: out.detach()[:, 0]}, ValueError, "no gradient"),
}


# While the scales are being found, or when they are known.
when = pytest.mark.parametrize(
    ("first", "mode"),
    [(True, "gradients"), (False, "no_grad"), (True, "inference_mode"), (False, "autocast")],
    ids=["first call", "later, no_grad", "first, inference_mode", "later, autocast"],
)


def check_failure(model, images, untouched, method, case, first, mode):
    plant, arguments, error, match = case
    attributor = method(model)
    if not first:
        attributor.attribute(images, 1)
    planted = plant(model) if plant else None
    if planted:
        attributor = method(model, planted["layer"])
    arguments = {"inputs": images, "target": 1} | arguments
    with MODES[mode](), untouched(model, images), pytest.raises(error, match=match):
        attributor.attribute(**arguments)


@when
@pytest.mark.parametrize("case", FAILURES.values(), ids=FAILURES)
def test_after_an_error(model, small_images, untouched, maker, case, first, mode):
    check_failure(model, small_images, untouched, maker, case, first, mode)


@when
@pytest.mark.parametrize("case", GRADIENT_FAILURES.values(), ids=GRADIENT_FAILURES)
def test_after_an_error_in_the_gradient(
    model, small_images, untouched, gradient_method, case, first, mode
):
    check_failure(model, small_images, untouched, gradient_method, case, first, mode)


def test_a_statistic_that_raises(model, small_images, untouched):
    attributor = SMOEScale(model)
    attributor.attribute(small_images)

    def fail(values):
        raise RuntimeError("planted in the normalisation")

    attributor.settings = dataclasses.replace(attributor.settings, normalization=fail)
    with untouched(model, small_images), pytest.raises(RuntimeError, match="planted in the norm"):
        attributor.attribute(small_images)


def test_after_an_error_it_works_again(model, small_images, method):
    expected = method(model).attribute(small_images, 1)
    attributor = method(model)
    with pytest.raises(ValueError, match="does not fit"):
        attributor.attribute(small_images, 99)
    pool, model[4] = model[4], Raising(RuntimeError("planted"))
    with pytest.raises(RuntimeError, match="planted"):
        attributor.attribute(small_images, 1)
    model[4] = pool
    assert torch.equal(attributor.attribute(small_images, 1), expected)


def test_foreign_hooks_keep_their_order_and_their_effects(
    small_network, small_images, untouched, method
):
    """A user's hooks before and after a layer count as part of the network."""
    plain = small_network()
    changed = nn.Sequential(*plain[:6], nn.Hardtanh(-9, 0.5), *plain[6:])
    expected = method(changed, plain[6]).attribute(small_images, 1)

    model, log = small_network(), []
    model[6].register_forward_pre_hook(lambda _, args: (args[0].clamp(-9, 0.5),))
    model[6].register_forward_hook(lambda *_: log.append("first"))
    model[6].register_forward_hook(lambda *_: log.append("second"), prepend=True)
    every = nn.modules.module.register_module_forward_hook(
        lambda module, *_: log.append("all") if module is model[6] else None
    )
    try:
        with untouched(model, small_images):
            attributor = method(model, model[6])
            attributor.attribute(small_images, 1)
            log.clear()
            assert torch.equal(attributor.attribute(small_images, 1), expected)
    finally:
        every.remove()
    # A hook on all modules goes before each module's own.
    assert log[:3] == ["all", "second", "first"]
    assert log == log[:3] * (len(log) // 3)


def test_a_hook_that_changes_what_is_read(small_network, small_images, method):
    """A user's hook was set before ours: its return value is the layer's output."""
    model = small_network()
    model[6].register_forward_hook(lambda _, __, output: output.clamp(max=0.25))
    result = method(model, model[6]).attribute(small_images, 1)
    plain = small_network()
    clamped = nn.Sequential(*plain[:6], nn.Hardtanh(0, 0.25), *plain[7:])
    torch.testing.assert_close(result, method(clamped, clamped[6]).attribute(small_images, 1))


def test_two_attributors_on_one_model(small_network, small_images, untouched, method):
    model = small_network()
    makers = {
        "found": lambda: method(model),
        "deep": lambda: method(model, model[6]),
        "early": lambda: method(model, model[2]),
        "smoe": lambda: SMOEScale(model, weights="equal"),
    }
    alone = {}
    for name, make in makers.items():
        alone[name] = make().attribute(small_images, 1)
    with untouched(model, small_images), warnings.catch_warnings():
        warnings.simplefilter("error")
        attributors = {name: make() for name, make in makers.items()}
        for _ in range(2):
            for name, attributor in attributors.items():
                assert torch.equal(attributor.attribute(small_images, 1), alone[name]), name
    if method is not SMOEScale:
        assert not torch.equal(alone["deep"], alone["early"])
