"""A small detector of YOLO's structure, pictures with known boxes, and its training on them.

Written from the structure's published description: a letterbox in front, blocks that let a part of
the channels pass (CSP), pooling pyramid at the end of the backbone, top-down and bottom-up paths,
and heads at strides 8, 16 and 32 that keep boxes and classes apart.
"""

import torch
import torch.nn.functional as F
from torch import nn

STRIDES = (8, 16, 32)
# The grey with which a picture is padded to a square.
GREY = 114 / 255


def convolution(inside, outside, size=1, stride=1):
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.SiLU(),
    )


class Partial(nn.Module):
    """A block through which half of the channels pass unchanged."""

    def __init__(self, inside, outside):
        super().__init__()
        half = outside // 2
        self.first, self.passing = convolution(inside, half), convolution(inside, half)
        self.block = nn.Sequential(convolution(half, half), convolution(half, half, 3))
        self.last = convolution(outside, outside)

    def forward(self, x):
        first = self.first(x)
        return self.last(torch.cat([first + self.block(first), self.passing(x)], 1))


class PoolingPyramid(nn.Module):
    """Three poolings after each other, and all of them together."""

    def __init__(self, channels):
        super().__init__()
        self.first = convolution(channels, channels // 2)
        self.last = convolution(2 * channels, channels)

    def forward(self, x):
        levels = [self.first(x)]
        for _ in range(3):
            levels.append(F.max_pool2d(levels[-1], 5, 1, 2))
        return self.last(torch.cat(levels, 1))


class Yolo(nn.Module):
    """A detector `(N, 3, H, W)` to `(N, 4 + classes, boxes)`: centre, size and class logits.

    Boxes are in pixels of the letterboxed square.
    """

    def __init__(self, classes=2, side=96, width=8):
        super().__init__()
        self.classes, self.side = classes, side
        w = width
        self.stem = convolution(3, w, 3, 2)
        self.stage4 = nn.Sequential(convolution(w, 2 * w, 3, 2), Partial(2 * w, 2 * w))
        self.stage8 = nn.Sequential(convolution(2 * w, 4 * w, 3, 2), Partial(4 * w, 4 * w))
        self.stage16 = nn.Sequential(convolution(4 * w, 4 * w, 3, 2), Partial(4 * w, 4 * w))
        self.stage32 = nn.Sequential(
            convolution(4 * w, 4 * w, 3, 2), Partial(4 * w, 4 * w), PoolingPyramid(4 * w)
        )
        self.up16, self.up8 = Partial(8 * w, 4 * w), Partial(8 * w, 4 * w)
        self.down8, self.down16 = (convolution(4 * w, 4 * w, 3, 2) for _ in range(2))
        self.out16, self.out32 = Partial(8 * w, 4 * w), Partial(8 * w, 4 * w)
        self.box_heads, self.class_heads = (
            nn.ModuleList(
                nn.Sequential(convolution(4 * w, 4 * w, 3), nn.Conv2d(4 * w, number, 1))
                for _ in STRIDES
            )
            for number in (4, classes)
        )
        for head in self.class_heads:
            nn.init.constant_(head[-1].bias, -4.0)

    def letterbox(self, images):
        height, width = images.shape[2:]
        share = min(self.side / height, self.side / width)
        tall, wide = round(height * share), round(width * share)
        images = F.interpolate(images, (tall, wide), mode="bilinear", align_corners=False)
        top, left = (self.side - tall) // 2, (self.side - wide) // 2
        sides = (left, self.side - wide - left, top, self.side - tall - top)
        return F.pad(images, sides, value=GREY)

    def on_image(self, boxes, height, width):
        """Return corners in pixels of an image from those in pixels of the square."""
        share = min(self.side / height, self.side / width)
        tall, wide = round(height * share), round(width * share)
        corner = torch.tensor([(self.side - wide) // 2, (self.side - tall) // 2] * 2)
        return (boxes - corner) * torch.tensor([width / wide, height / tall] * 2)

    def levels(self, images):
        """Return boxes and class logits of each level, as maps."""
        x8 = self.stage8(self.stage4(self.stem(self.letterbox(images))))
        x16 = self.stage16(x8)
        x32 = self.stage32(x16)
        top16 = self.up16(torch.cat([F.interpolate(x32, scale_factor=2.0), x16], 1))
        n8 = self.up8(torch.cat([F.interpolate(top16, scale_factor=2.0), x8], 1))
        n16 = self.out16(torch.cat([self.down8(n8), top16], 1))
        n32 = self.out32(torch.cat([self.down16(n16), x32], 1))
        heads = zip((n8, n16, n32), self.box_heads, self.class_heads, strict=True)
        return [(box(x), of_class(x)) for x, box, of_class in heads]

    def forward(self, images):
        found = []
        for (boxes, logits), stride in zip(self.levels(images), STRIDES, strict=True):
            side = self.side // stride
            at = (torch.arange(side, device=boxes.device) + 0.5) * stride
            rows, columns = torch.meshgrid(at, at, indexing="ij")
            centre = torch.stack([columns, rows]) + boxes[:, :2] * stride
            size = boxes[:, 2:].clamp(-4, 4).exp() * stride
            found.append(torch.cat([centre, size, logits], 1).flatten(2))
        return torch.cat(found, 2)


def picture(generator, height, width, objects):
    """Return an image with discs (class 0) and squares (class 1), and their boxes and classes.

    Args:
        generator: Of random numbers.
        height: Of the image.
        width: Of the image.
        objects: Row, column, radius and class of each.
    """
    image = 0.45 + 0.1 * torch.rand(3, height, width, generator=generator)
    rows = torch.arange(height)[:, None] + 0.5
    columns = torch.arange(width)[None, :] + 0.5
    boxes, classes = [], []
    for row, column, radius, of_class in objects:
        down, across = (rows - row).abs(), (columns - column).abs()
        inside = (down**2 + across**2).sqrt() if of_class == 0 else torch.maximum(down, across)
        inside = inside <= radius
        colour = torch.tensor([0.9, 0.2, 0.2] if of_class == 0 else [0.1, 0.4, 0.9])
        stripes = 1 - 0.3 * (((rows + columns) // 3) % 2)
        image[:, inside] = (colour[:, None, None] * stripes)[:, inside]
        boxes.append([column - radius, row - radius, column + radius, row + radius])
        classes.append(of_class)
    return image, torch.tensor(boxes), torch.tensor(classes)


def random_objects(generator, height, width, classes=None):
    """Return two objects that do not touch: row, column, radius and class of each."""
    half = width // 2
    objects = []
    for side in (0, half):
        radius = int(torch.randint(9, 14, (), generator=generator))
        low, high = radius + 2, height - radius - 2
        row = int(torch.randint(low, high, (), generator=generator))
        column = side + int(torch.randint(radius + 2, half - radius - 1, (), generator=generator))
        of_class = int(torch.randint(2, (), generator=generator))
        objects.append((row, column, radius, of_class if classes is None else classes))
    return objects


def trained(steps=200, seed=0, side=96):
    """Return a network trained on pictures of two objects."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Yolo(side=side)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        made = [
            picture(generator, side, side, random_objects(generator, side, side)) for _ in range(8)
        ]
        optimizer.zero_grad()
        loss(network, torch.stack([one[0] for one in made]), made).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def loss(network, images, made):
    """Return the loss: the cell of an object's centre answers for it, at strides 8 and 16."""
    total = torch.zeros(())
    for (boxes, logits), stride in zip(network.levels(images), STRIDES, strict=True):
        wanted = torch.zeros_like(logits)
        for image, (_, corners, classes) in enumerate(made):
            for box, of_class in zip(corners.float(), classes, strict=True):
                if stride != (16 if box[2] - box[0] > 22 else 8):
                    continue
                centre, size = (box[:2] + box[2:]) / 2 / stride, (box[2:] - box[:2]) / stride
                column, row = (int(one) for one in centre.floor())
                wanted[image, of_class, row, column] = 1
                goal = torch.cat([centre - centre.floor() - 0.5, size.log()])
                total = total + F.smooth_l1_loss(
                    boxes[image, :, row, column], goal, reduction="sum"
                )
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        hard = (wanted - logits.sigmoid()).abs().detach().square()
        total = total + (entropy * hard).sum() * 2
    return total / len(made)
