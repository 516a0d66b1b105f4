"""Shared by all tests: one thread, benchmarks off, attribution classes, small networks."""

import signal
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from captum.attr._utils.attribution import Attribution, GradientAttribution, LayerAttribution
from torch import nn
from torch.nn.modules import module as nn_module

import fastsal

# With one thread sums are added in one order: results are equal to the last digit.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Time nothing unless asked to: each benchmark then runs once, on small sizes."""
    option = config.option
    # One file may be run without pytest-benchmark.
    if hasattr(option, "benchmark_only") and not (option.benchmark_only or option.benchmark_enable):
        option.benchmark_disable = True
    # A shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


PUBLIC = [
    value
    for name in fastsal.__all__
    if isinstance(value := getattr(fastsal, name), type) and issubclass(value, Attribution)
]
# They take the place of no class of Captum's: a head, a layer without gradients, several layers.
# Their contract is in the tests of attribution.
OWN_FORM = {
    *(fastsal.CAM, fastsal.ReciproCAM, fastsal.ScoreCAM),
    *(fastsal.MultiLayerCAM, fastsal.RefineCAM),
}
# A base is seen through the classes made from it.
METHODS = [
    method
    for method in PUBLIC
    if not set(method.__subclasses__()) & set(PUBLIC) and method not in OWN_FORM
]
IMAGE_METHODS = [method for method in METHODS if not issubclass(method, LayerAttribution)]
CAM_METHODS = [method for method in METHODS if issubclass(method, GradientAttribution)]


def _name(method):
    return method.__name__


@pytest.fixture(params=METHODS, ids=_name)
def method(request):
    """Every public attribution class in turn."""
    return request.param


MAKERS = {method.__name__: method for method in METHODS} | {
    "before the ReLU": partial(fastsal.SMOEScale, statistic="truncnormal_mean"),
    "Fast-CAM++": partial(fastsal.FastCAM, cam="gradcam++"),
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def maker(request):
    """The same, and what their options make of them."""
    return request.param


@pytest.fixture(params=IMAGE_METHODS, ids=_name)
def image_method(request):
    """Those whose maps have the image's size, and not a layer's."""
    return request.param


@pytest.fixture(params=CAM_METHODS, ids=_name)
def cam_method(request):
    """Those that take a gradient."""
    return request.param


@pytest.fixture(params=[one for one in CAM_METHODS if one is not fastsal.EigenCAM], ids=_name)
def gradient_method(request):
    """Every class activation map of a class's gradient in turn: EigenCAM takes none."""
    return request.param


def _small_network(inplace=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace),
            nn.Dropout(0.5),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(inplace),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 5),
        )
        # Every class rises with some location, so that no class activation map is 0.
        nn.init.normal_(net[9].weight, 0.1, 0.05)
        return net.eval()


@pytest.fixture
def small_network():
    """A maker of one small network with seeded weights, in evaluation mode."""
    return _small_network


@pytest.fixture
def small_images():
    """Three images for it, wider than high."""
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def _picture(model, tensors):
    """All that a call might change, with tensors held by themselves and by their values."""
    modules = dict(model.named_modules())
    held = {f"input {index}": tensor for index, tensor in enumerate(tensors)}
    held |= dict(model.named_parameters()) | dict(model.named_buffers())
    held |= {f"{name}.grad": p.grad for name, p in held.items() if p.grad is not None}
    return {
        "modules": list(modules.items()),
        "attributes": [sorted(vars(module)) for module in modules.values()],
        "hooks": [
            (name, key, list(value.items()))
            for name, module in [*modules.items(), ("all modules", nn_module)]
            for key, value in vars(module).items()
            if "hooks" in key and isinstance(value, dict)
        ],
        "modes": [module.training for module in modules.values()],
        "tensors": [(name, id(tensor)) for name, tensor in held.items()],
        "requires_grad": [tensor.requires_grad for tensor in held.values()],
        # Every write to a tensor counts its version up; one made under inference mode has none.
        "versions": [None if t.is_inference() else t._version for t in held.values()],
        "values": [tensor.detach().numpy().tobytes() for tensor in held.values()],
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled()),
        "random state": torch.get_rng_state().tolist(),
        "function modes": torch._C._len_torch_function_stack(),
        "stance": torch._dynamo.eval_frame._stance,
    }


@contextmanager
def _untouched(model, *tensors):
    before = _picture(model, tensors)
    yield
    after = _picture(model, tensors)
    for key, value in before.items():
        assert after[key] == value, f"{key} changed"


@pytest.fixture
def untouched():
    """A context in which a model and tensors stay bit for bit as they were."""
    return _untouched
