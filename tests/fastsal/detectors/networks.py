"""Small detectors of torchvision and transformers with random weights."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

# Images are made this high at least and this wide at most.
SIZES = {"min_size": 64, "max_size": 112}
FEW = {"score_thresh": 0.0, "detections_per_img": 3}


def backbone():
    """Return a network of strides 2, 4 and 8 whose bright places stay bright."""
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(12, 32, 3, 2, 1),
        nn.ReLU(),
    )
    made.out_channels = 32
    return made


def faster_rcnn():
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    pooling = MultiScaleRoIAlign(["0"], 3, 2)
    return FasterRCNN(
        backbone(),
        3,
        rpn_anchor_generator=anchors,
        box_roi_pool=pooling,
        box_score_thresh=0.0,
        box_detections_per_img=3,
        **SIZES,
    )


def retinanet():
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    return RetinaNet(backbone(), 3, anchor_generator=anchors, **FEW, **SIZES)


def fcos():
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    return FCOS(backbone(), 3, anchor_generator=anchors, **FEW, **SIZES)


def ssd():
    boxes = DefaultBoxGenerator([[1]], scales=[0.2, 0.4], steps=[8])
    made = backbone()
    made.out_channels = [made.out_channels]
    return SSD(made, boxes, (64, 96), 3, **FEW)


DETECTORS = {"faster_rcnn": faster_rcnn, "retinanet": retinanet, "fcos": fcos, "ssd": ssd}


def detector(name):
    """Return a detector of torchvision with a small backbone."""
    torch.manual_seed(0)
    return DETECTORS[name]().eval()


def detr():
    """Return a small DETR of transformers without pretrained weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 16, 16],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            out_features=["stage4"],
        ),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=6,
        num_labels=3,
    )
    return transformers.DetrForObjectDetection(config).eval()


def images():
    """Return images of different sizes, each with one busy patch, and the patches' centres."""
    generator = torch.Generator().manual_seed(1)
    made, centres = [], []
    for height, width, row, column in ((64, 96, 12, 70), (90, 60, 66, 16), (50, 50, 10, 30)):
        image = torch.full((3, height, width), 0.45)
        image[:, row : row + 16, column : column + 16] = torch.rand(3, 16, 16, generator=generator)
        made.append(image)
        centres.append((row + 8, column + 8))
    return made, centres
