"""Targets of detectors: the score of one box, in the forms in which detectors give their boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastsal.arguments.logits import named_item
from fastsal.arguments.targets import TargetError
from fastsal.optional import needed

_FORMS = (
    "a list of dictionaries with 'boxes', 'labels' and 'scores' (torchvision), 'logits' and "
    "'pred_boxes' (DETR), a tensor (N, boxes, 4 + classes) of any order (YOLO), or a tensor "
    "(N, boxes, 6) of left, top, right, bottom, score and class (end-to-end YOLO)"
)
# The columns of end-to-end boxes: four of a box, its score and its class.
_END_TO_END = 6


class Boxes(NamedTuple):
    """The detections of one image, the highest score first.

    Attributes:
        boxes: `(K, 4)`, left, top, right and bottom in the units of the model's output: pixels of
            the image for torchvision's models, shares of it for DETR, and for a raw YOLO what the
            model decodes.
        labels: `(K,)`, the class of each.
        scores: `(K,)`, in [0, 1].
        places: `(K,)`, the number of each among the boxes that the model gives for the image.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    places: Tensor


class _Answers(NamedTuple):
    """All boxes that a detector gives for an image.

    Attributes:
        boxes: `(A, 4)`, left, top, right and bottom.
        scores: `(A,)` of each box's class, or `(A, classes)`.
        values: The same before the sigmoid or the softmax where the output has it, with its graph.
        labels: `(A,)`; None where `scores` has all classes.
        overlapping: True if several boxes may show one object, before any suppression.
    """

    boxes: Tensor
    scores: Tensor
    values: Tensor
    labels: Tensor | None = None
    overlapping: bool = False


@dataclass(frozen=True)
class Detections:
    """Every detection of an image as a target: `attribute` gives one map for each.

    The boxes come from the model's output in one of four forms: torchvision's list of
    dictionaries; DETR's `logits` (or `pred_logits`) and `pred_boxes`; end-to-end boxes
    `(N, boxes, 6)`, each left, top, right, bottom, score and class, as YOLOv10 gives them; a raw
    tensor `(N, boxes, 4 + classes)`, `(N, boxes, 5 + classes)` with the score of an object before
    those of the classes, or either with the last two dimensions exchanged, as other networks of the
    YOLO kind give it. A tensor is the output, or first in a tuple, or first in the first of its
    tuples. The raw tensor's boxes are centre, width and height; those that overlap a better one of
    the same class are left out (non-maximum suppression). A tensor of six columns is raw if
    `classes` is 1 or 2.

    Args:
        label: The class, as the model numbers it; None takes all classes.
        score_above: The lowest score, not included, in [0, 1]. Default: 0.5.
        classes: The number of classes, which DETR's and raw outputs do not tell. With one logit
            more than classes the last is "no object" and scores are softmax (DETR, YOLOS), with as
            many they are sigmoid (Deformable DETR, RT-DETR). torchvision's models and end-to-end
            boxes need none.
        overlap: The intersection over union from which on two boxes of a raw tensor show one
            object. Default: 0.5.
        extra: The number of columns of a raw tensor that follow those of the classes, such as the
            32 coefficients of a YOLO's masks, three for each key point, and the angle of an
            oriented box. Default: 0.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> output = [{
        ...     "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 8.0]]),
        ...     "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.4]),
        ... }]
        >>> Detections(score_above=0.5).found(output)[0].labels.tolist()
        [1]
    """

    label: int | None = None
    score_above: float = 0.5
    classes: int | None = None
    overlap: float = 0.5
    extra: int = 0

    def __post_init__(self) -> None:
        for name, low in (("label", 0), ("classes", 1), ("extra", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < low):
                raise ValueError(f"{name} must be a whole number from {low} up, got {value!r}")
        for name in ("score_above", "overlap"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value!r}")

    def found(self, output: Any) -> list[Boxes]:
        """Return the boxes of each image that the target selects, in the order of their maps.

        Args:
            output: The model's output.

        Raises:
            TargetError: If the output has none of the forms, or `classes` does not fit it.
        """
        with torch.no_grad():
            answers = _answers(output, self.classes, self.extra)
            return [self._of_image(one) for one in answers]

    def _of_image(self, one: _Answers) -> Boxes:
        scores, labels = one.scores.detach(), one.labels
        if labels is None:
            scores, labels = scores.max(1)
        kept = scores > self.score_above
        if self.label is not None:
            kept = kept & (labels == self.label)
        places = kept.nonzero()[:, 0]
        places = places[scores[places].argsort(descending=True, stable=True)]
        if one.overlapping and len(places):
            ops: Any = needed("torchvision.ops", "the suppression of boxes", "torchvision")
            boxes = one.boxes[places].float()
            chosen = ops.batched_nms(boxes, scores[places].float(), labels[places], self.overlap)
            places = places[chosen.sort().values]
        return Boxes(one.boxes[places], labels[places], scores[places], places)


@dataclass(frozen=True)
class Detection(Detections):
    """One detection of each image as a target, the best or the one of a number.

    It is a function of the model's output that gives one score an image, and so a target of
    everything that takes a function. Boxes are found as `Detections` finds them.

    Args:
        label: As for `Detections`.
        score_above: As for `Detections`. Default: 0.
        classes: As for `Detections`.
        overlap: As for `Detections`. Default: 0.5.
        extra: As for `Detections`. Default: 0.
        index: The number of the detection among those of the label above the score, the best
            first, from 0. Default: 0.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> output = [{
        ...     "boxes": torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 8.0]]),
        ...     "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.4]),
        ... }]
        >>> [round(Detection(**one)(output).item(), 2) for one in ({"index": 1}, {"label": 1})]
        [0.4, 0.9]
    """

    score_above: float = 0.0
    index: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.index, int) or self.index < 0:
            raise ValueError(f"index must be a whole number from 0 up, got {self.index!r}")

    def __call__(self, output: Any) -> Tensor:
        """Return the score of the detection of each image, `(N,)`.

        Args:
            output: The model's output.

        Raises:
            TargetError: If an image has no such detection, or as `found` raises it.
        """
        answers = _answers(output, self.classes, self.extra)
        chosen = []
        for image, one in enumerate(answers):
            boxes = self._of_image(one)
            if self.index >= len(boxes.places):
                of_label = "" if self.label is None else f" of label {self.label}"
                raise TargetError(
                    f"image {image} has {len(boxes.places)} detection(s){of_label} with a score "
                    f"above {self.score_above:g}, so that there is none with index {self.index}; "
                    "take Detections(...), which gives as many maps as there are detections, or "
                    "another label, index or score_above"
                )
            chosen.append(_value(one, boxes.places[self.index], boxes.labels[self.index]))
        return torch.stack(chosen)


@dataclass(frozen=True)
class FixedDetection:
    """A box of one image at a known place of the output, whatever its rank in a later pass.

    Args:
        place: The number of the box among those that the model gives.
        label: Its class.
        classes: As for `Detections`.
        extra: As for `Detections`.
    """

    place: int
    label: int
    classes: int | None = None
    extra: int = 0

    def __call__(self, output: Any) -> Tensor:
        """Return the box's score, `(1,)`."""
        (one,) = _answers(output, self.classes, self.extra)
        return _value(one, self.place, self.label).reshape(1)


def is_detection(target: Any) -> bool:
    """Return True for a target that is the score of a box.

    >>> is_detection(Detection()), is_detection(3)
    (True, False)
    """
    return isinstance(target, (Detections, FixedDetection))


def is_every_detection(target: Any) -> bool:
    """Return True for a target of which an image may have any number.

    >>> is_every_detection(Detections()), is_every_detection(Detection())
    (True, False)
    """
    return isinstance(target, Detections) and not isinstance(target, Detection)


def _value(one: _Answers, place: Tensor | int, label: Tensor | int) -> Tensor:
    return one.values[place] if one.labels is not None else one.values[place, label]


def _answers(output: Any, classes: int | None, extra: int) -> list[_Answers]:
    """Return the boxes of each image from a detector's output."""
    if are_selected(output):
        return [
            _Answers(one["boxes"], one["scores"], one["scores"], one["labels"]) for one in output
        ]
    logits = named_item(output, "logits")
    logits = named_item(output, "pred_logits") if logits is None else logits
    boxes = named_item(output, "pred_boxes")
    if isinstance(logits, Tensor) and isinstance(boxes, Tensor):
        return _of_queries(logits, boxes, classes)
    raw = output
    # Networks that segment give the boxes in a tuple of their own.
    while isinstance(raw, (tuple, list)) and raw:
        raw = raw[0]
    if isinstance(raw, Tensor) and raw.dim() == 3:
        selected = not extra and are_end_to_end(raw, classes)
        return _of_selected(raw) if selected else _of_raw(raw, classes, extra)
    raise TargetError(
        f"no boxes are known in a model's output of type {type(output).__name__}, expected "
        f"{_FORMS}; give a function of the output that returns one score an image as target"
    )


def are_selected(output: Any) -> bool:
    """Return True for torchvision's list of dictionaries, of boxes that the model has selected.

    >>> are_selected([{"boxes": 0, "labels": 0, "scores": 0}]), are_selected(torch.ones(1, 6, 9))
    (True, False)
    """
    return (
        isinstance(output, (list, tuple))
        and bool(output)
        and all(
            isinstance(one, Mapping) and {"boxes", "labels", "scores"} <= one.keys()
            for one in output
        )
    )


def are_end_to_end(output: Tensor, classes: int | None = None) -> bool:
    """Return True for end-to-end boxes: left, top, right, bottom, score and class.

    The values must fit: no box ends before it begins, scores are in [0, 1] and classes are whole
    numbers, of the rows with a score.

    Args:
        output: A tensor of three dimensions.
        classes: The number of classes if it is known; of 1 and 2 six columns are raw.

    >>> are_end_to_end(torch.tensor([[[0.0, 0.0, 4.0, 8.0, 0.9, 17.0]]]))
    True
    >>> are_end_to_end(torch.tensor([[[9.0, 9.0, 4.0, 8.0, 0.9, 0.1]]]))
    False
    """
    raw = classes is not None and _END_TO_END in (4 + classes, 5 + classes)
    if output.shape[2] != _END_TO_END or raw:
        return False
    rows = output.detach().flatten(0, 1)
    scores = rows[:, 4]
    rows = rows[scores != 0]
    ordered = (rows[:, 2:4] >= rows[:, :2]).all()
    whole = ((rows[:, 5] >= 0) & (rows[:, 5] == rows[:, 5].round())).all()
    return bool(ordered and whole and ((scores >= 0) & (scores <= 1)).all())


def _of_selected(output: Tensor) -> list[_Answers]:
    return [_Answers(one[:, :4], one[:, 4], one[:, 4], one[:, 5].long()) for one in output]


def _of_queries(logits: Tensor, boxes: Tensor, classes: int | None) -> list[_Answers]:
    last = logits.shape[-1]
    if classes not in (last, last - 1) or not classes:
        raise TargetError(
            f"the model gives {last} logits a box, got classes={classes}: give classes={last - 1} "
            f"if the last is 'no object' (DETR, YOLOS), classes={last} if all are classes "
            "(Deformable DETR, RT-DETR)"
        )
    scores = logits.sigmoid() if classes == last else logits.softmax(-1)[..., :-1]
    return [
        _Answers(box, score, value)
        for box, score, value in zip(_corners(boxes), scores, logits[..., :classes], strict=True)
    ]


def _of_raw(raw: Tensor, classes: int | None, extra: int) -> list[_Answers]:
    sizes = tuple(raw.shape)
    wanted = () if classes is None else (4 + classes + extra, 5 + classes + extra)
    axes = [axis for axis in (1, 2) if sizes[axis] in wanted]
    if len(axes) != 1:
        what = f"classes={classes}" if axes or classes is not None else "no classes"
        unlike = (
            " (its six columns are no end-to-end boxes, whose values are left, top, right, bottom, "
            "a score in [0, 1] and a whole number)"
            if sizes[2] == _END_TO_END and not wanted
            else ""
        )
        raise TargetError(
            f"of a raw output {sizes}, expected (N, boxes, 4 + classes), one dimension must have 4 "
            f"or 5 more than the number of classes, and extra={extra} columns after them, got "
            f"{what}{unlike}; give Detection(classes=..., extra=...) (a YOLO that segments has 32 "
            "extra columns), and if both dimensions fit, a function of the output as target"
        )
    if axes == [1]:
        raw = raw.transpose(1, 2)
    raw = raw[..., : raw.shape[2] - extra]
    found = raw[..., -(classes or 0) :]
    # Probabilities, or logits: among so many boxes some logits are negative.
    given = found.detach()
    logits = bool(((given < 0) | (given > 1)).any())
    scores, values = (found.sigmoid() if logits else found), found
    if raw.shape[2] != 4 + (classes or 0):
        of_object = raw[..., 4:5]
        scores = scores * (of_object.sigmoid() if logits else of_object)
        values = scores
    return [
        _Answers(box, score, value, overlapping=True)
        for box, score, value in zip(_corners(raw[..., :4]), scores, values, strict=True)
    ]


def _corners(boxes: Tensor) -> Tensor:
    """Return left, top, right and bottom of boxes given as centre, width and height."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)
