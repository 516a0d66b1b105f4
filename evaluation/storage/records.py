"""Records of a run: one `Record` a number, one `CellResult` a finished cell."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.storage.hashes import cell_id
from evaluation.storage.sealed import opened, sealed

__all__ = [
    "METRICS",
    "CellResult",
    "Metric",
    "Record",
    "pack_bits",
    "unpack_bits",
]

JSON = Any


@dataclass(frozen=True)
class Metric:
    """The meaning of a recorded number.

    Args:
        name: key used in records.
        title: how a table or an axis calls it.
        unit: unit of the value; ``"1"`` for a share.
        higher_is_better: None where neither end is better.
        timed: True for a time, which differs from run to run.
        axes: numbers of axes of the samples that have it: 2 of images, 3 of volumes, 1 of signals.

    >>> METRICS["accuracy"].unit
    '1'
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    timed: bool = False
    axes: tuple[int, ...] = (1, 2, 3)


# The noisy linear fill of a volume would be a system as wide as a slice.
_NOISY_LINEAR = (1, 2)
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", "Test accuracy", "1", None),
        Metric("mask_only_accuracy", "Accuracy from the mask alone", "1", None),
        Metric("pointing_game", "Pointing game", "1", True),
        Metric("mass_in_object", "Mass in the object", "1", True),
        Metric("deletion_area", "Deletion area", "1", False),
        Metric("insertion_area", "Insertion area", "1", True),
        Metric(
            "road_most_accuracy",
            "ROAD accuracy, most salient removed",
            "1",
            False,
            axes=_NOISY_LINEAR,
        ),
        Metric(
            "road_least_accuracy",
            "ROAD accuracy, least salient removed",
            "1",
            True,
            axes=_NOISY_LINEAR,
        ),
        Metric(
            "deletion_area_noisy_linear",
            "Deletion area, noisy linear",
            "1",
            False,
            axes=_NOISY_LINEAR,
        ),
        Metric(
            "insertion_area_noisy_linear",
            "Insertion area, noisy linear",
            "1",
            True,
            axes=_NOISY_LINEAR,
        ),
        Metric("average_drop", "Average drop", "1", False),
        Metric("confidence_increase", "Increase in confidence", "1", True),
        Metric("ffid_plus", "FFid+, drop of the probability", "1", True),
        Metric("ffid_minus", "FFid\N{MINUS SIGN}, drop of the probability", "1", False),
        Metric("ffid_plus_accuracy", "FFid+, drop of the accuracy", "1", True),
        Metric("ffid_minus_accuracy", "FFid\N{MINUS SIGN}, drop of the accuracy", "1", False),
        Metric("idsds", "IDSDS, rank correlation of patches", "1", True, axes=(2,)),
        Metric(
            "ffid_network_accuracy", "Test accuracy after fine-tuning for F-Fidelity", "1", None
        ),
        Metric("idsds_network_accuracy", "Test accuracy after fine-tuning for IDSDS", "1", None),
        Metric("weights_spearman", "Spearman, weights randomised", "1", None),
        Metric("weights_ssim", "SSIM, weights randomised", "1", None),
        Metric("labels_spearman", "Spearman, labels permuted", "1", None),
        Metric("labels_ssim", "SSIM, labels permuted", "1", None),
        Metric("permuted_train_accuracy", "Training accuracy on permuted labels", "1", None),
        Metric("pretrained_accuracy", "Test accuracy of the given weights", "1", None),
        Metric("total_variation", "Total variation", "1", None),
        Metric("png_bytes", "PNG file of the map", "B", None),
        Metric("data_wait_share", "Share of the training that waited for data", "1", False, True),
        Metric("train_images_per_s", "Training throughput", "images/s", True, True),
        Metric("attribution_ms", "Time an image in the run", "ms", False, True),
        Metric("attribution_images_per_s", "Maps a second in the run", "images/s", True, True),
        Metric("forward_ms", "Forward pass an image", "ms", False, True),
        Metric("map_ms", "Time an image, measured alone", "ms", False, True),
        Metric("map_flops", "Convolutions and matrix products", "FLOP", False),
        Metric("map_elementwise", "Elementwise operations", "operations", False),
        Metric("map_transcendental", "Transcendental operations", "operations", False),
        Metric("map_reduction", "Reducing operations", "operations", False),
        Metric("overhead_percent", "Time beyond the forward pass", "%", False, True),
        Metric("first_ms", "Time of the first call", "ms", False, True),
        Metric("forward_bytes", "Peak memory of the forward pass", "B", None),
        Metric("peak_bytes", "Peak memory beyond the forward pass", "B", False),
        Metric("scratch_bytes", "The same besides the returned map", "B", False),
        Metric("allocated_bytes", "Peak of the allocator beyond the forward pass", "B", False),
        Metric("stored_bytes", "Stored levels an image", "B", False),
    )
}


@dataclass(frozen=True)
class Record:
    """One measured number with its method, data, network and fraction.

    Args:
        method: name of the saliency method, or ``"none"`` for the unmasked reference.
        parameters: the method's parameters.
        dataset: name of the image set.
        model: name of the network.
        mode: ``"roar"``, ``"kar"`` or ``"unmasked"``.
        fraction: share of the pixels removed (ROAR) or kept (KAR), in (0, 1); None if unmasked.
        layer: layer the mask was applied at, or the last one whose weights were randomised; None
            for the input.
        metric: a key of `METRICS`.
        value: the number, in `unit`.
        unit: as `Metric.unit`.
        seed: seed of the retraining; None where none was used.
        version: version of fastsal.
        cell: id of the cell that measured it; ``cells/<cell>.json`` holds the rest,
            the environment included.
        derived_from: the record that this one repeats, where it was not measured by itself (the
            random control is its own dual); else None.
        fill: fill of removed pixels; this field and the next three are those of
            `evaluation.masking.variants.Variant`, with the protocol's own as defaults.
        mask_unit: the unit that is ranked and removed, ``"pixel"`` or ``"element"``.
        target_from: the network whose prediction the maps explain, ``"self"`` or
            ``"crossfit-K"``.
        recursive: True if each fraction's maps came from the network retrained at the fraction
            before.

    >>> Record("smoe-linear", {}, "shapes", "resnet9", "roar", 0.5, None,
    ...        "accuracy", 0.61, "1", 0, "0.1.0", "c0ffee").metric
    'accuracy'
    """

    method: str
    parameters: Mapping[str, JSON]
    dataset: str
    model: str
    mode: str
    fraction: float | None
    layer: str | None
    metric: str
    value: float
    unit: str
    seed: int | None
    version: str
    cell: str
    derived_from: str | None = None
    fill: str = "mean"
    mask_unit: str = "pixel"
    target_from: str = "self"
    recursive: bool = False

    @property
    def timed(self) -> bool:
        """True for a time, which a comparison of two runs leaves out.

        >>> from dataclasses import replace
        >>> record = Record("none", {}, "shapes", "resnet9", "unmasked", None, None,
        ...                 "accuracy", 0.9, "1", 0, "0.1.0", "c0ffee")
        >>> record.timed, replace(record, metric="data_wait_share").timed
        (False, True)
        """
        return METRICS[self.metric].timed

    def __post_init__(self) -> None:
        """Refuse an unknown metric."""
        if self.metric not in METRICS:
            raise ValueError(
                f"unknown metric {self.metric!r}: expected one of {', '.join(METRICS)}; "
                "add it to evaluation.storage.records.METRICS"
            )


@dataclass(frozen=True)
class CellResult:
    """The result of one finished cell, kept as ``cells/<id>.json``.

    Args:
        id: hash of the cell's full specification.
        kind: ``"data"``, ``"base"``, ``"pretrained"``, ``"maps"``, ``"part"``, ``"retrain"``,
            ``"mask_only"``, ``"fold"``, ``"same"``, ``"permuted"``, ``"fine_tuned"``,
            ``"measure"`` or ``"profile"``; inside a network ``"given"``, ``"activations"``,
            ``"locations"`` or ``"tune"``.
        spec: the full specification.
        records: the numbers.
        correct: each test image's correctness as packed bits in base64, or None.
        images: number of bits in `correct`.
        hashes: content hashes: ``init`` (initial weights), ``order`` (batches, crops and
            flips), ``model`` (final weights), ``maps`` (levels), ``data`` (images), ``files`` (the
            files of a folder of images); of a cost, as ``not_counted``, the operations that no
            rule covers.
        history: one entry an epoch: ``epoch, loss, accuracy, seconds, wait_seconds``; of a cost,
            one a round; of a measure, one an image.
        seconds: wall time of the cell.
        environment: versions, processor and threads it ran with.
    """

    id: str
    kind: str
    spec: Mapping[str, JSON]
    records: tuple[Record, ...]
    correct: str | None = None
    images: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, float], ...] = ()
    seconds: float = 0.0
    environment: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> str:
        """The result as JSON text.

        >>> CellResult.from_json(CellResult("ab", "base", {}, ()).to_json()).id
        'ab'
        """
        return sealed(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> CellResult:
        """The result from the text of `to_json`.

        Raises:
            ValueError: a text that is not what `to_json` gave; the message says what was expected,
                to follow the file's name.
        """
        content, hashed = opened(text)
        try:
            content["records"] = tuple(Record(**record) for record in content["records"])
            content["history"] = tuple(content["history"])
            result = cls(**content)
        except KeyError as error:
            raise ValueError(f"has no field {error}: expected those of a cell's result") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"is no result of a cell: {error}") from error
        # The hash covers the specification. Results without one are all of the first version.
        if not hashed and result.id != cell_id(result.kind, result.spec, _CODE_WITHOUT_HASHES):
            raise ValueError(
                f"has the specification of another cell than {result.id!r}: expected its own"
            )
        return result


_CODE_WITHOUT_HASHES = 1


def pack_bits(correct: NDArray[np.bool_]) -> str:
    """Booleans ``(N,)`` as packed bits in base64.

    >>> pack_bits(np.array([True, False, True]))
    'oA=='
    """
    return base64.b64encode(np.packbits(correct).tobytes()).decode("ascii")


def unpack_bits(text: str, images: int) -> NDArray[np.bool_]:
    """Booleans ``(N,)`` from the text of `pack_bits`.

    >>> unpack_bits("oA==", 3).tolist()
    [True, False, True]
    """
    packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(packed, count=images).astype(bool)
