"""A small detector of YOLO's structure, with raw boxes or with end-to-end ones.

Written from the structure's published description: a letterbox in front, blocks that let a part of
the channels pass (CSP), a pooling pyramid at the end of the backbone, top-down and bottom-up paths,
and heads at strides 8, 16 and 32 that keep boxes and classes apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["STRIDES", "EndToEndYolo", "Yolo"]

STRIDES = (8, 16, 32)
# The grey with which a picture is padded to a square.
GREY = 114 / 255


def _convolution(inside: int, outside: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.SiLU(),
    )


class _Partial(nn.Module):
    """A block through which half of the channels pass unchanged."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.first, self.passing = _convolution(inside, half), _convolution(inside, half)
        self.block = nn.Sequential(_convolution(half, half), _convolution(half, half, 3))
        self.last = _convolution(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        both: Tensor = self.last(torch.cat([first + self.block(first), self.passing(x)], 1))
        return both


class _PoolingPyramid(nn.Module):
    """Three poolings after each other, and all of them together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels // 2)
        self.last = _convolution(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        levels: list[Tensor] = [self.first(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        joined: Tensor = self.last(torch.cat(levels, 1))
        return joined


class Yolo(nn.Module):
    """A detector that gives centre, size and class logits of every box.

    Boxes are in pixels of the letterboxed square.

    Args:
        classes: number of classes.
        side: of the square, a multiple of 32.
        width: channels of the first layer.

    Reference:
        Redmon et al. 2016, "You only look once: unified, real-time object detection", for boxes of
        cells; Wang et al. 2020, "CSPNet", for the blocks.

    >>> Yolo(classes=2, side=64).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 6, 84])
    """

    def __init__(self, classes: int = 2, side: int = 96, width: int = 8) -> None:
        super().__init__()
        self.classes, self.side = classes, side
        w = width
        self.stem = _convolution(3, w, 3, 2)
        self.stage4 = nn.Sequential(_convolution(w, 2 * w, 3, 2), _Partial(2 * w, 2 * w))
        self.stage8 = nn.Sequential(_convolution(2 * w, 4 * w, 3, 2), _Partial(4 * w, 4 * w))
        self.stage16 = nn.Sequential(_convolution(4 * w, 4 * w, 3, 2), _Partial(4 * w, 4 * w))
        self.stage32 = nn.Sequential(
            _convolution(4 * w, 4 * w, 3, 2), _Partial(4 * w, 4 * w), _PoolingPyramid(4 * w)
        )
        self.up16, self.up8 = _Partial(8 * w, 4 * w), _Partial(8 * w, 4 * w)
        self.down8, self.down16 = (_convolution(4 * w, 4 * w, 3, 2) for _ in range(2))
        self.out16, self.out32 = _Partial(8 * w, 4 * w), _Partial(8 * w, 4 * w)
        self.box_heads, self.class_heads = (
            nn.ModuleList(
                nn.Sequential(_convolution(4 * w, 4 * w, 3), nn.Conv2d(4 * w, number, 1))
                for _ in STRIDES
            )
            for number in (4, classes)
        )
        for head in self.class_heads:
            last = head.get_submodule("1")
            nn.init.constant_(last.bias, -4.0)  # type: ignore[arg-type]

    def letterbox(self, images: Tensor) -> Tensor:
        """Images `(N, 3, H, W)` resized and padded to the square, `(N, 3, side, side)`."""
        height, width = images.shape[2:]
        share = min(self.side / height, self.side / width)
        tall, wide = round(height * share), round(width * share)
        images = F.interpolate(images, (tall, wide), mode="bilinear", align_corners=False)
        top, left = (self.side - tall) // 2, (self.side - wide) // 2
        sides = (left, self.side - wide - left, top, self.side - tall - top)
        return F.pad(images, sides, value=GREY)

    def on_image(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """Corners `(K, 4)` in pixels of an image from those in pixels of the square."""
        share = min(self.side / height, self.side / width)
        tall, wide = round(height * share), round(width * share)
        corner = torch.tensor([(self.side - wide) // 2, (self.side - tall) // 2] * 2)
        return (boxes - corner) * torch.tensor([width / wide, height / tall] * 2)

    def heads_read(self, level: Tensor) -> Tensor:
        """The tensor that the heads of a level read."""
        return level

    def levels(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Boxes `(N, 4, h, w)` and class logits `(N, classes, h, w)` of each stride."""
        x8 = self.stage8(self.stage4(self.stem(self.letterbox(images))))
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        top16 = self.up16(torch.cat([F.interpolate(x32, scale_factor=2.0), x16], 1))
        n8 = self.up8(torch.cat([F.interpolate(top16, scale_factor=2.0), x8], 1))
        n16 = self.out16(torch.cat([self.down8(n8), top16], 1))
        n32 = self.out32(torch.cat([self.down16(n16), x32], 1))
        read = map(self.heads_read, (n8, n16, n32))
        heads = zip(read, self.box_heads, self.class_heads, strict=True)
        return [(box(x), of_class(x)) for x, box, of_class in heads]

    def forward(self, images: Tensor) -> Tensor:
        """Centre, size and class logits of every box, `(N, 4 + classes, boxes)`."""
        found = []
        for (boxes, logits), stride in zip(self.levels(images), STRIDES, strict=True):
            side = self.side // stride
            at = (torch.arange(side, device=boxes.device) + 0.5) * stride
            rows, columns = torch.meshgrid(at, at, indexing="ij")
            centre = torch.stack([columns, rows]) + boxes[:, :2] * stride
            size = boxes[:, 2:].clamp(-4, 4).exp() * stride
            found.append(torch.cat([centre, size, logits], 1).flatten(2))
        return torch.cat(found, 2)


class EndToEndYolo(nn.Module):
    r"""A detector that selects its own boxes: left, top, right, bottom, score and class.

    Of all boxes those with the highest score of any class are kept, and of their scores the highest
    of all classes, without any suppression:

    $$A' = \text{top-}K_a \max_c s_{ac}, \qquad (a, c) \in \text{top-}K_{a \in A',\, c}\; s_{ac}$$

    Args:
        classes: number of classes.
        side: of the letterboxed square, a multiple of 32.
        width: channels of the first layer.
        most: K, the number of boxes of an image.
        detached: the heads read levels that are cut off from the gradient, as Ultralytics' own
            one-to-one heads do, so that no layer before them has one.

    Reference:
        Wang et al. 2024, "YOLOv10: real-time end-to-end object detection", section 3.1.

    >>> EndToEndYolo(side=96, most=100).eval()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 100, 6])
    """

    def __init__(
        self,
        classes: int = 2,
        side: int = 160,
        width: int = 8,
        most: int = 300,
        detached: bool = False,
    ) -> None:
        super().__init__()
        self.most = most
        self.detector = _Detached(classes, side, width) if detached else Yolo(classes, side, width)

    def forward(self, images: Tensor) -> Tensor:
        """Boxes in pixels of the square, score and class, `(N, K, 6)`, the best first."""
        raw = self.detector(images).transpose(1, 2)
        centre, half = raw[..., :2], raw[..., 2:4] / 2
        corners, scores = torch.cat([centre - half, centre + half], 2), raw[..., 4:].sigmoid()
        most = min(self.most, raw.shape[1])
        chosen = scores.amax(2).topk(most, dim=1).indices[..., None]
        corners = corners.gather(1, chosen.expand(-1, -1, 4))
        scores = scores.gather(1, chosen.expand(-1, -1, scores.shape[2]))
        best, places = scores.flatten(1).topk(most, dim=1)
        classes = self.detector.classes
        at = (places // classes)[..., None].expand(-1, -1, 4)
        label = (places % classes).to(raw.dtype)
        return torch.cat([corners.gather(1, at), best[..., None], label[..., None]], 2)


class _Detached(Yolo):
    """A detector whose heads hand no gradient to the layers before them."""

    def heads_read(self, level: Tensor) -> Tensor:
        return level.detach()
