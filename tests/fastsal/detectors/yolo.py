"""Pictures with known boxes for the detector of YOLO's structure, and its training on them."""

import torch
import torch.nn.functional as F

from reports.families.yolo import STRIDES, Yolo


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
