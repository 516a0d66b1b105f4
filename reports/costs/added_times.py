"""Added times of maps in every form, read from the recorded files alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.profiling.timing import Interval
from reports.analysis.cost_rows import NETWORK_ALONE

__all__ = [
    "ENGINE_NAMES",
    "FORMS",
    "METHOD_TITLES",
    "SMOE",
    "SUMS",
    "Added",
    "Place",
    "added_times",
]

SMOE = "smoe-linear"
# The sum over the channels of each scale: what reading every activation once takes.
SUMS = "read-once"
METHOD_TITLES = {
    SMOE: "SMOE Scale",
    "fastcam": "Fast-CAM",
    "with-map": "with_map",
    SUMS: "sum over channels",
    "captum-layer-gradcam": "Captum's LayerGradCam",
    "guided-gradcam": "Captum's GuidedGradCam",
}
FORMS = ("PyTorch", "torch.compile", "CUDA graphs", "onnxruntime", "OpenVINO")
# Beside the folder of the profile, in that of the deployment: files of rounds in other engines.
_ENGINES = ("exported.csv", "engines.csv")
ENGINE_NAMES = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO"}
_WHAT = {"map": SMOE, "fastcam": "fastcam", "sums": SUMS}
_SIZE = 224
_COVERS = 0.95


@dataclass(frozen=True)
class Place:
    """The form a network runs in, and the setting: what rows of added times have in common.

    Args:
        form: one of `FORMS`.
        network: name of the network.
        device: ``"cpu"``, or the name of a GPU.
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``.
        threads: of the CPU; 0 for a GPU.
        batch: images at once.
    """

    form: str
    network: str
    device: str
    precision: str
    threads: int
    batch: int

    @property
    def title(self) -> str:
        """The place in words.

        >>> Place("onnxruntime", "resnet50", "cpu", "int8", 1, 1).title
        'onnxruntime, resnet50, int8, 1 thread, batch 1'
        """
        parts = [
            self.form,
            self.network,
            *([] if self.precision == "float32" else [self.precision]),
        ]
        where = self.device
        if self.device == "cpu":
            where = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return ", ".join([*parts, where, f"batch {self.batch}"])


@dataclass(frozen=True)
class Added:
    """Added time of a method at one place.

    Args:
        alone_ms: the network alone in the same rounds, median of a batch.
        percent: added time in percent of it, with its 95 % interval.
    """

    alone_ms: float
    percent: Interval


def added_times(records: pd.DataFrame, run: Path) -> dict[tuple[Place, str], Added]:
    """Added times by place and method, for images of 224x224.

    Args:
        records: of a profile, as its `records.parquet` has them.
        run: the profile's folder; `exported.csv` and `engines.csv` of ``python -m comparisons
            deployment`` are read from the folder ``deployment`` beside it. One that is not there is
            left out.

    Returns:
        The later record of two of the same number.
    """
    found = dict(_of_profile(records))
    for name in _ENGINES:
        path = run.resolve().parent / "deployment" / name
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                found |= dict(map(_of_engine, csv.DictReader(file)))
    return found


def _of_profile(records: pd.DataFrame) -> Iterator[tuple[tuple[Place, str], Added]]:
    """The added times of a profile's records; none of records from before their intervals."""
    if "low" not in records:
        return
    rows = records[records["low"].notna() & (records["size"] == _SIZE)]
    plain = rows[rows["metric"] == "forward_ms"].set_index("cell")["value"].to_dict()
    for row in rows[rows["metric"] == "overhead_percent"].to_dict("records"):
        if row["method"] == NETWORK_ALONE:
            continue
        on_cpu = row["device"] == "cpu"
        compiled = "CUDA graphs" if row["cuda_graphs"] else "torch.compile"
        place = Place(
            form=compiled if row["compiled"] else "PyTorch",
            network=row["model"],
            device="cpu" if on_cpu else row["hardware"],
            precision=row["precision"],
            threads=int(row["threads"]) if on_cpu else 0,
            batch=int(row["batch"]),
        )
        interval = Interval(row["value"], row["low"], row["high"], _COVERS)
        yield (place, row["method"]), Added(plain[row["cell"]] * place.batch, interval)


def _of_engine(row: dict[str, Any]) -> tuple[tuple[Place, str], Added]:
    """The added time of a row of `engines.csv`, or of `exported.csv`, which is onnxruntime's."""
    median, low, high = (
        float(row[f"processor_{end}_percent"]) for end in ("median", "low", "high")
    )
    place = Place(
        form=ENGINE_NAMES[row.get("engine", "onnxruntime")],
        # What follows the comma says which weights it has.
        network=row["network"].partition(",")[0],
        device=row.get("device", "cpu"),
        precision=row["precision"],
        threads=int(row["threads"]),
        batch=int(row.get("batch", 1)),
    )
    method = _WHAT[row.get("what") or row["map"]]
    return (place, method), Added(
        float(row["network_processor_ms"]), Interval(median, low, high, _COVERS)
    )
