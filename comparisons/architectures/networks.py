"""Small networks of many families for images of 32x32, and the recipe that trains each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from evaluation.networks.build import ResNet9
from evaluation.training.recipe import Recipe
from fastsal.optional import needed

__all__ = ["ARCHITECTURES", "SIZE", "Architecture", "build"]

SIZE = 32

_SGD = Recipe(epochs=2, precision="bfloat16")
# AdamW, as most of these families are trained in print.
_ADAM = Recipe(
    epochs=4,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.02,
    channels_last=False,
    label_smoothing=0.0,
    warmup=0.1,
)
_TOKENS = replace(_ADAM, epochs=8, weight_decay=0.05)
# Their products are large enough to gain.
_BFLOAT16 = replace(_TOKENS, precision="bfloat16")


@dataclass(frozen=True)
class Architecture:
    """One family's small network.

    Attributes:
        name: The key of `ARCHITECTURES`.
        title: The family's name in the field.
        make: Builds the network for a number of classes.
        recipe: The recipe that trains it.
        published: A network of torchvision or timm of the family, in its published size, on which
            the cost of a map is measured.
        size: The side of the published network's images.
    """

    name: str
    title: str
    make: Callable[[int], nn.Module]
    recipe: Recipe
    published: str
    size: int = 224


def build(name: str, classes: int, seed: int) -> nn.Module:
    """Return a network with the initial weights of a seed; the global generator is left as it was.

    Args:
        name: A key of `ARCHITECTURES`.
        classes: The number of classes.
        seed: The seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[name].make(classes)


def _models() -> Any:
    return needed("torchvision", "the small networks").models


def _timm() -> Any:
    return needed("timm", "the small networks").models


def _vgg(classes: int) -> nn.Module:
    vgg = _models().vgg
    network: nn.Module = vgg.VGG(
        vgg.make_layers([16, 16, "M", 32, 32, "M", 64, 64, "M", 128]),
        num_classes=classes,
        init_weights=True,
    )
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(128, classes)
    return network


def _densenet(classes: int) -> nn.Module:
    network: nn.Module = _models().DenseNet(
        growth_rate=12, block_config=(2, 2, 2), num_init_features=16, num_classes=classes
    )
    # The stem of 224x224 would leave 2x2 locations.
    network.features.conv0 = nn.Conv2d(3, 16, 3, padding=1, bias=False)  # type: ignore[union-attr]
    network.features.pool0 = nn.Identity()  # type: ignore[union-attr]
    return network


def _stem_of_stride_one(name: str, classes: int) -> nn.Module:
    network: nn.Module = needed("timm", "the small networks").create_model(
        name, num_classes=classes
    )
    stem: Any = network.conv_stem
    stem.stride = (1, 1)
    return network


def _mobilenet(classes: int) -> nn.Module:
    return _stem_of_stride_one("mobilenetv3_small_050", classes)


def _efficientnet(classes: int) -> nn.Module:
    return _stem_of_stride_one("test_efficientnet", classes)


def _convnext(classes: int) -> nn.Module:
    network: nn.Module = _timm().convnext.ConvNeXt(
        depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), patch_size=2, num_classes=classes
    )
    return network


def _swin(classes: int) -> nn.Module:
    network: nn.Module = _models().SwinTransformer(
        patch_size=[4, 4],
        embed_dim=48,
        depths=[2, 4],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=classes,
    )
    return network


def _pvt(classes: int) -> nn.Module:
    network: Any = _timm().pvt_v2.PyramidVisionTransformerV2(
        depths=(1, 1, 2, 1),
        embed_dims=(16, 32, 64, 128),
        num_heads=(1, 1, 2, 4),
        mlp_ratios=(4, 4, 4, 4),
        num_classes=classes,
    )
    # The patches of 224x224 would leave one location.
    network.patch_embed.proj.stride = (2, 2)
    built: nn.Module = network
    return built


def _vit(classes: int) -> nn.Module:
    network: nn.Module = _timm().vision_transformer.VisionTransformer(
        img_size=SIZE, patch_size=4, embed_dim=64, depth=6, num_heads=2, num_classes=classes
    )
    return network


def _mixer(classes: int) -> nn.Module:
    network: nn.Module = _timm().mlp_mixer.MlpMixer(
        img_size=SIZE,
        patch_size=4,
        num_blocks=6,
        embed_dim=64,
        mlp_ratio=(1.0, 4.0),
        num_classes=classes,
    )
    return network


ARCHITECTURES: dict[str, Architecture] = {
    one.name: one
    for one in (
        Architecture("resnet", "ResNet", ResNet9, _SGD, "resnet50"),
        Architecture("vgg", "VGG without norm", _vgg, _ADAM, "vgg16"),
        Architecture("densenet", "DenseNet", _densenet, _SGD, "densenet121"),
        Architecture(
            "mobilenet", "MobileNetV3", _mobilenet, replace(_ADAM, epochs=12), "mobilenet_v3_large"
        ),
        Architecture(
            "efficientnet",
            "EfficientNet",
            _efficientnet,
            replace(_ADAM, epochs=3),
            "efficientnet_b0",
        ),
        Architecture("convnext", "ConvNeXt", _convnext, _ADAM, "convnext_tiny"),
        Architecture("swin", "Swin", _swin, replace(_BFLOAT16, epochs=6), "swin_t"),
        Architecture("pvt", "PVT", _pvt, _TOKENS, "timm:pvt_v2_b0"),
        Architecture("vit", "ViT", _vit, _TOKENS, "vit_b_16"),
        Architecture("mixer", "MLP-Mixer", _mixer, _BFLOAT16, "timm:mixer_s16_224"),
    )
}
