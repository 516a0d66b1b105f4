"""Hook removal and targets, over cases in the schema of Captum's own test configuration.

`captum.testing` holds the schema, its readers, its models and cases. The test modules that run them
do not ship with Captum; what they ask is asked here.
"""

import copy
import warnings
from enum import Enum

import pytest
import torch
from captum.attr import GuidedGradCam, NoiseTunnel
from captum.attr._models.base import _set_deep_layer_value
from captum.testing.attr.helpers.gen_test_utils import (
    get_target_layer,
    parse_test_config,
    should_create_generated_test,
)
from captum.testing.attr.helpers.test_config import config
from captum.testing.helpers.basic_models import BasicModel_ConvNet
from torch import nn

from fastsal import SMOEScale

pytestmark = pytest.mark.heavy

IMAGES = 20 * torch.rand(4, 1, 10, 10, generator=torch.Generator().manual_seed(1))
TARGETS = {
    "list": [0, 1, 1, 0],
    "tensor": torch.tensor([0, 1, 1, 0]),
    "tuples": [(0,), (1,), (1,), (0,)],
    "one": torch.tensor([2]),
}


def convnet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BasicModel_ConvNet()
        # Captum's are all 1: every class has one score, and its gradient is rounding alone.
        nn.init.normal_(model.fc1.weight, 0.01, 0.02)
        nn.init.normal_(model.fc2.weight, 0.01, 0.02)
    return model


def case(name, layer, target, tunnel):
    arguments = {"inputs": IMAGES, "target": target}
    if tunnel:
        # The same noise for one image as for four is none.
        arguments |= {"nt_samples": 2, "nt_samples_batch_size": 1, "stdevs": 0.0}
    return {
        "name": f"{name}_{layer if isinstance(layer, str) else '_'.join(layer)}",
        "model": convnet(),
        "attribute_args": arguments,
        "layer": layer,
        "noise_tunnel": tunnel,
    }


def written_for(names, layers, targets):
    """The cases of all layers, each with and without a noise tunnel."""
    return [
        case(name, layer, target, tunnel)
        for layer in layers
        for name, target in zip(names, targets, strict=True)
        for tunnel in (False, True)
    ]


SINGLE = ["conv1", "relu1", "conv2", "relu2"]
SEVERAL = [["conv1", "conv2"], ["relu1", "relu2"], ["conv1", "relu1", "relu2"]]
HOOKS = written_for(["hooks"], SINGLE, [[1, 0, 2, 3]])
HOOKS_OF_SEVERAL = written_for(["hooks"], SEVERAL, [[1, 0, 2, 3]])
TARGETED = written_for(TARGETS, ["conv1", "relu2"], TARGETS.values())
TARGETED_OF_SEVERAL = written_for(TARGETS, SEVERAL[1:2], TARGETS.values())
# Captum's own cases of the class that Fast-CAM stands in for.
SHIPPED = [entry for entry in config if GuidedGradCam in entry["algorithms"]]


def generated(entries):
    """Run a test over cases, by Captum's names for them."""
    names = [
        entry["name"] + ("NoiseTunnel" if entry.get("noise_tunnel") else "") for entry in entries
    ]
    assert len(set(names)) == len(names)
    return pytest.mark.parametrize("entry", entries, ids=names)


class Mode(Enum):
    NORMAL = "normal"
    WRONG_TARGET = "wrong target"
    INVALID_MODULE = "invalid module"


every_mode = pytest.mark.parametrize("mode", Mode, ids=lambda mode: mode.value)


class Invalid(nn.Module):
    def forward(self, *_):
        raise AssertionError("planted")


def built(method, entry):
    """Return a case's attributor, in a noise tunnel if it has one, and copies of its arguments."""
    entry = {**entry, "algorithms": [method]}
    algorithms, model, arguments, layer, tunnel, _ = parse_test_config(entry)
    assert should_create_generated_test(algorithms[0])
    model, arguments = copy.deepcopy(model), copy.deepcopy(arguments)

    def build():
        attributor = algorithms[0](model, get_target_layer(model, layer))
        return NoiseTunnel(attributor) if tunnel else attributor

    return build, model, arguments, layer


def check_hook_removal(method, entry, mode):
    build, model, arguments, layer = built(method, entry)
    if mode is Mode.INVALID_MODULE:
        _set_deep_layer_value(model, layer if isinstance(layer, str) else layer[0], Invalid())
    if mode is Mode.WRONG_TARGET:
        arguments["target"] = (9999,) * 20
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mode is Mode.NORMAL:
            build().attribute(**arguments)
        else:
            # Captum's tests know no other error.
            with pytest.raises(AssertionError):
                build().attribute(**arguments)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


@every_mode
@generated(SHIPPED + HOOKS)
def test_hook_removal(method, entry, mode):
    check_hook_removal(method, entry, mode)


@every_mode
@generated(HOOKS_OF_SEVERAL)
def test_hook_removal_of_several_layers(entry, mode):
    check_hook_removal(SMOEScale, entry, mode)


def check_targets(method, entry):
    """One target for each image gives the same as each image alone, also with a number as target.

    A single one is every image's.
    """
    build, _, arguments, _ = built(method, entry)
    images, targets = arguments["inputs"], arguments["target"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attributor = build()
        together = attributor.attribute(**arguments)
        for index in range(len(images)):
            single = targets if len(targets) == 1 else targets[index : index + 1]
            for target in (single, single[0]):
                arguments |= {"inputs": images[index : index + 1], "target": target}
                alone = attributor.attribute(**arguments)
                torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-4)


@generated(TARGETED)
def test_targets(method, entry):
    check_targets(method, entry)


@generated(TARGETED_OF_SEVERAL)
def test_targets_of_several_layers(entry):
    check_targets(SMOEScale, entry)


def test_a_target_changes_a_class_activation_map(gradient_method):
    """The cases above can fail: these images' maps differ between classes."""
    attributor = gradient_method(convnet(), "conv2")
    maps = [attributor.attribute(IMAGES, target) for target in range(3)]
    for other in maps[1:]:
        assert (maps[0] - other).abs().max() > 0.05 * maps[0].max()
