"""Networks by name: built-in ones, torchvision's, timm's, or the user's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluation.datasets.grids import GRIDS
from evaluation.networks.fast_network import FastNet
from evaluation.networks.grid_networks import ConvNet
from evaluation.storage.hashes import weights_hash
from fastsal.networks.by_name import built_by, named_function
from fastsal.optional import needed

__all__ = ["BUILT_IN", "build_network", "check_network", "initialised_anew", "state_hash"]


class _ConvNormAct(nn.Sequential):
    """Convolution, BatchNorm and ReLU; not shared, since Guided Backprop hooks each module."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class ResNet9(nn.Module):
    """A ResNet of nine layers for small images; four scales, 24 M multiply-adds at 32x32.

    Args:
        classes: number of classes.
        width: channels of the first layer, doubled at each of three poolings.
        stride: stride of the first layer; at 2 images of 64x64 cost what 32x32 cost at 1.

    >>> ResNet9(10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int, width: int = 16, stride: int = 1) -> None:
        super().__init__()
        self.stem = _ConvNormAct(3, width, stride=stride)
        self.stage1 = nn.Sequential(
            _ConvNormAct(width, 2 * width), nn.MaxPool2d(2), _pair(2 * width)
        )
        self.stage2 = nn.Sequential(_ConvNormAct(2 * width, 4 * width), nn.MaxPool2d(2))
        self.stage3 = nn.Sequential(
            _ConvNormAct(4 * width, 8 * width), nn.MaxPool2d(2), _pair(8 * width)
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to logits ``(N, classes)``."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _pair(width: int) -> _Residual:
    return _Residual(nn.Sequential(_ConvNormAct(width, width), _ConvNormAct(width, width)))


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _ConvNormAct(inputs, outputs, stride=stride)
        self.conv = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.relu(self.norm(self.conv(self.first(x))) + self.shortcut(x))
        return y


class ResNet20(nn.Module):
    """The ResNet-20 for small images of He et al. 2016 (section 4.2, projection shortcuts).

    >>> ResNet20(10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = _ConvNormAct(3, 16)
        self.stage1 = self._stage(16, 16, 1)
        self.stage2 = self._stage(16, 32, 2)
        self.stage3 = self._stage(32, 64, 2)
        self.head = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        blocks = (
            _BasicBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1)
            for i in range(3)
        )
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to logits ``(N, classes)``."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


BUILT_IN: dict[str, Callable[[int], nn.Module]] = {
    "resnet9": ResNet9,
    "resnet9-stride2": partial(ResNet9, stride=2),
    "resnet20": ResNet20,
    "fastnet": FastNet,
    "convnet-3d": partial(ConvNet, axes=3, channels=1),
    "convnet-1d": partial(ConvNet, axes=1, channels=2, kernel=7),
}


def build_network(
    name: str, classes: int | None, seed: int, *, size: tuple[int, ...], channels: int = 3
) -> nn.Module:
    """A freshly initialised network whose weights depend on the name, the classes and the seed.

    Args:
        name: a built-in name, a torchvision classifier's name, ``timm:NAME``,
            ``package.module:function`` or ``path/to/file.py:function``; the function gets the
            number of classes if it takes it, as `fastsal.networks.by_name.built_by` says, and
            returns a module.
        classes: number of classes; None for as many as the network has by itself.
        seed: seed of the initial weights; the global generator is left as it was.
        size: height and width of the images, for a trial run; of volumes three sides, of signals
            one.
        channels: channels of the images.

    Raises:
        ValueError: an unknown name, or a network that does not return ``(N, classes)``
            for ``(N, channels, *size)``; says which.

    >>> build_network("resnet9", 8, 0, size=(32, 32)).head.out_features
    8
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _builder(name)(classes)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"model {name!r} gave a {type(network).__name__}: expected a function that "
                "returns a torch.nn.Module"
            )
        _try_out(network, name, classes, (channels, *size))
    return network


def initialised_anew(network: nn.Module, seed: int) -> nn.Module:
    """A copy of a network whose weights are drawn anew, each module by its own initialisation.

    For a network that is built with trained weights, whose initial ones are not known.

    Args:
        network: stays as it is.
        seed: seed of the weights; the global generator is left as it was.

    Raises:
        ValueError: a module has weights and no `reset_parameters`; names it.

    >>> import torch
    >>> trained = nn.Linear(2, 2)
    >>> bool((initialised_anew(trained, 0).weight == trained.weight).any())
    False
    """
    anew = copy.deepcopy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in anew.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                raise ValueError(
                    f"the weights of {name or type(network).__name__} cannot be drawn anew: its "
                    f"module {type(module).__name__} has no reset_parameters; leave out the "
                    "measure weights"
                )
    return anew


def check_network(name: str) -> None:
    """Refuse a name that stands for no network, without building one.

    Args:
        name: as `build_network` takes it; of ``timm:NAME`` only the package is looked for.

    Raises:
        ValueError: an unknown name; says which there are.

    >>> check_network("resnet9")
    """
    _builder(name)


def state_hash(network: nn.Module) -> str:
    """SHA-256 over the bytes of every weight and buffer, as 16 hex digits.

    >>> first, second = (build_network("resnet9", 8, 0, size=(32, 32)) for _ in range(2))
    >>> state_hash(first) == state_hash(second)
    True
    """
    return weights_hash(network.state_dict())


def _builder(name: str) -> Callable[[int | None], object]:
    if name in BUILT_IN:
        return partial(_built_in, name)
    if name.startswith("timm:"):
        timm: Any = needed("timm", f"the network {name}")
        return partial(_build_timm, timm, name)
    if ":" in name:
        file = Path(name.rpartition(":")[0])
        from_file = file.suffix == ".py" and file.is_file()
        function = _run(name, file.stat().st_mtime_ns) if from_file else named_function(name)
        return partial(built_by, function, name)
    from torchvision import models

    if name in {*models.list_models(module=models), *models.list_models(module=models.video)}:
        return partial(_of_torchvision, name)
    raise ValueError(
        f"unknown model {name!r}: expected {', '.join(BUILT_IN)}, the name of a torchvision "
        "classifier (torchvision.models.list_models(module=torchvision.models)), timm:NAME, "
        "package.module:function or path/to/file.py:function"
    )


def _built_in(name: str, classes: int | None) -> object:
    if classes is None:
        raise ValueError(f"model {name!r} has no classes of its own: expected their number")
    return BUILT_IN[name](classes)


def _of_torchvision(name: str, classes: int | None) -> object:
    from torchvision import models

    stated = {} if classes is None else {"num_classes": classes}
    return models.get_model(name, weights=None, **stated)


@lru_cache(maxsize=16)
def _run(name: str, changed: int) -> Callable[..., Any]:
    """The function of a file, which is run once and again where it has changed.

    Networks of one class share what `torch.compile` made of the first, and a file that is run again
    has a class of its own.
    """
    del changed
    return named_function(name)


def _build_timm(timm: Any, name: str, classes: int | None) -> object:
    stated = {} if classes is None else {"num_classes": classes}
    try:
        return timm.create_model(name.removeprefix("timm:"), pretrained=False, **stated)
    except Exception as error:
        raise ValueError(
            f"model {name!r} cannot be built{'' if classes is None else f' for {classes} classes'} "
            f"({error}): expected a name of timm.list_models()"
        ) from error


def _try_out(network: nn.Module, name: str, classes: int | None, shape: tuple[int, ...]) -> None:
    network.eval()
    inputs = torch.zeros(2, *shape)
    before = inputs._version
    try:
        with torch.no_grad():
            output = network(inputs)
    except Exception as error:
        raise ValueError(_failed(name, shape, error)) from error
    finally:
        network.train()
    if inputs._version != before:
        network.register_forward_pre_hook(_copied)
    returned = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if classes is None:
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 2:
            raise ValueError(
                f"model {name!r} returns {returned} for two images: expected (2, classes), one "
                "number for each class"
            )
    elif returned != (2, classes):
        raise ValueError(
            f"model {name!r} returns {returned} for two images: expected (2, {classes}), one "
            f"number for each of the {classes} classes"
        )


def _failed(name: str, shape: tuple[int, ...], error: Exception) -> str:
    """The message of a network that cannot take inputs of a shape."""
    channels, *sides = shape
    size = "x".join(map(str, sides))
    if len(sides) == 2:
        return (
            f"model {name!r} fails on images of {size} ({error}): choose another model, or resize "
            "the images with --image-size"
        )
    return (
        f"model {name!r} fails on {GRIDS[len(sides)].samples} of {size} with {channels} "
        f"channel{'s' if channels > 1 else ''} ({error}): choose "
        f"--model convnet-{len(sides)}d, or a network of your own that takes them"
    )


def _copied(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of a network's inputs, where it writes into them.

    The caller's images stay as they are for the next pass, and gradients by them can be taken.
    """
    return tuple(part.clone() if isinstance(part, Tensor) else part for part in inputs)
