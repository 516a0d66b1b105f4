"""The share of each detection's map in its own box.

`python -m tests.fastsal.detectors.localisation` prints the table of `docs/how-to/detectors.md`.
"""

import warnings

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from fastsal import Detections, FastCAM, MultiLayerCAM
from fastsal.attribution.class_activation import ClassActivationMap
from tests.fastsal.detectors.yolo import picture, random_objects, trained

STEPS = 100
CHOSEN = Detections(classes=2, score_above=0.2)


def scenes(network, count, sizes=((96, 96),), seed=7):
    """Return pictures of two discs that a network has found both of.

    Args:
        network: From `yolo.trained`.
        count: The number of pictures.
        sizes: Their sizes in turn.
        seed: Of the pictures.

    Returns:
        For each its image, the boxes `(2, 4)` and the number of the detection of each.
    """
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(20 * count):
        height, width = sizes[number % len(sizes)]
        objects = random_objects(generator, height, width, 0)
        image, boxes, _ = picture(generator, height, width, objects)
        with torch.no_grad():
            (found,) = CHOSEN.found(network(image[None]))
        overlap = box_iou(network.on_image(found.boxes, height, width), boxes.float())
        if len(overlap) < 2 or (overlap.amax(0) <= 0.5).any():
            continue
        numbers = overlap.argmax(0).tolist()
        if numbers[0] != numbers[1]:
            made.append((image, boxes, numbers))
        if len(made) == count:
            return made
    raise AssertionError(f"both discs were found in {len(made)} pictures alone, expected {count}")


def shares(attributor, found):
    """Return the share of each map in its own box, and in the other object's.

    Args:
        attributor: Gives one map for each detection.
        found: From `scenes`.
    """
    own, other = [], []
    for image, boxes, numbers in found:
        (maps,) = attributor.attribute([image], CHOSEN)
        size = tuple(image.shape[1:])
        if maps.shape[2:] != size:
            maps = F.interpolate(maps, size, mode="bilinear")
        for k in (0, 1):
            of_object = maps[numbers[k], 0]
            for kept, box in ((own, boxes[k]), (other, boxes[1 - k])):
                left, top, right, bottom = box.tolist()
                total = of_object.sum().clamp_min(1e-12)
                kept.append(float(of_object[top:bottom, left:right].sum() / total))
    return own, other


def main():
    """Print the table."""
    warnings.simplefilter("ignore")
    network = trained(STEPS)
    found = scenes(network, 6)
    for layer in ("stage32", "stage16", "stage8"):
        for name in ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"):
            for form in (FastCAM, ClassActivationMap):
                _print(f"{form.__name__}, {name}, {layer}", form(network, layer, cam=name), found)
    _print("MultiLayerCAM, layercam", MultiLayerCAM(network), found)
    areas = [
        float((right - left) * (bottom - top))
        for _, boxes, _ in found
        for left, top, right, bottom in boxes
    ]
    print(f"a box covers {sum(areas) / len(areas) / 96**2:.3f} of a picture")


def _print(name, attributor, found):
    own, other = shares(attributor, found)
    more = sum(one > another for one, another in zip(own, other, strict=True))
    means = f"own {sum(own) / len(own):.2f}, other {sum(other) / len(other):.2f}"
    print(f"{name}: {means}, {more} of {len(own)}", flush=True)


if __name__ == "__main__":
    main()
