"""The networks of the table of compatibility, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from fastsal.optional import needed
from reports.families.grid_networks import GRID_NETWORKS
from reports.families.networks import build
from reports.families.unet import UNet
from reports.families.yolo import EndToEndYolo, Yolo

__all__ = ["GROUPS", "NETWORKS", "Network"]

GROUPS = (
    "Convolutional networks of torchvision",
    "Of timm",
    "Segmentation",
    "Detectors",
    "Tokens of one resolution",
    "Hierarchies of tokens",
    "Volumes",
    "Signals and lines of text",
)
_SIDE = 224


@dataclass(frozen=True)
class Network:
    """One row's network, and an input that it takes.

    Args:
        name: of the row.
        group: one of `GROUPS`.
        build: makes the network.
        shape: of an input, without the batch.
        wants: the packages that it needs beside torch and torchvision.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    wants: tuple[str, ...] = ()


def _named(name: str) -> nn.Module:
    return build(name)[0]


def _detector(name: str, **options: int) -> nn.Module:
    models = needed("torchvision", f"the detector {name}").models
    network: nn.Module = models.get_model(name, weights=None, weights_backbone=None, **options)
    return network


def _timm(name: str, **options: int) -> nn.Module:
    network: nn.Module = needed("timm", f"the network {name}").create_model(name, **options)
    return network


def _of_images(group: str, names: tuple[str, ...], side: int = _SIDE) -> list[Network]:
    found = []
    for name in names:
        package = name.partition(":")[0] if ":" in name else ""
        title = name.rpartition(":")[2] if package == "transformers" else name
        wants = (package,) if package else ()
        found.append(Network(title, group, partial(_named, name), (3, side, side), wants))
    return found


_CONVOLUTIONAL, _TIMM, _SEGMENTATION, _DETECTORS, _TOKENS, _HIERARCHIES, _VOLUMES, _SIGNALS = GROUPS
_ALL = [
    *_of_images(
        _CONVOLUTIONAL,
        (
            *("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "alexnet", "vgg16"),
            *("vgg16_bn", "densenet121", "googlenet", "squeezenet1_1", "shufflenet_v2_x1_0"),
            *("mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0"),
            *("efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "swin_t", "swin_v2_t"),
            "maxvit_t",
        ),
    ),
    *_of_images(_CONVOLUTIONAL, ("inception_v3",), 299),
    *_of_images(
        _TIMM,
        (
            *("timm:tf_efficientnet_lite0", "timm:convnextv2_atto", "timm:fastvit_t8"),
            *("timm:ghostnetv2_100", "timm:tiny_vit_5m_224"),
        ),
    ),
    *_of_images(_SEGMENTATION, ("fcn_resnet50", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large")),
    Network("U-Net", _SEGMENTATION, partial(UNet, 5), (3, _SIDE, _SIDE)),
    *_of_images(
        _DETECTORS, ("fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"), 320
    ),
    *(
        Network(
            name,
            _DETECTORS,
            # The default enlarges images to 800 rows.
            partial(_detector, name, min_size=_SIDE, max_size=_SIDE),
            (3, _SIDE, _SIDE),
        )
        for name in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn")
    ),
    *_of_images(_DETECTORS, ("transformers:detr:DetrForObjectDetection",)),
    Network("YOLO's structure", _DETECTORS, partial(Yolo, side=160), (3, 160, 160)),
    Network(
        "YOLO's structure, end to end", _DETECTORS, partial(EndToEndYolo, side=160), (3, 160, 160)
    ),
    *_of_images(_TOKENS, ("vit_b_16", "timm:vit_tiny_patch16_224", "timm:deit_tiny_patch16_224")),
    *_of_images(_TOKENS, ("timm:deit_tiny_distilled_patch16_224",)),
    Network(
        "timm:vit_small_patch14_reg4_dinov2",
        _TOKENS,
        partial(_timm, "vit_small_patch14_reg4_dinov2", img_size=_SIDE, num_classes=1000),
        (3, _SIDE, _SIDE),
        ("timm",),
    ),
    *_of_images(
        _TOKENS,
        (
            "timm:mixer_s32_224",
            "transformers:vit:ViTForImageClassification",
            "transformers:deit:DeiTForImageClassification",
            "transformers:dinov2_with_registers:Dinov2WithRegistersForImageClassification",
        ),
    ),
    *_of_images(
        _HIERARCHIES,
        (
            "transformers:swin:SwinForImageClassification",
            "transformers:hiera:HieraForImageClassification",
            "transformers:pvt:PvtForImageClassification",
            "transformers:segformer:SegformerForImageClassification",
            "transformers:cvt:CvtForImageClassification",
        ),
    ),
    *(
        Network(
            one.name,
            _VOLUMES if len(one.shape) == 4 else _SIGNALS,
            one.build,
            one.shape,
            ("monai",) if one.name.startswith("monai:") else (),
        )
        for one in GRID_NETWORKS.values()
    ),
]
NETWORKS: dict[str, Network] = {one.name: one for one in _ALL}
