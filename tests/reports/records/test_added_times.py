"""Added times of a profile: which of its records are meant."""

from __future__ import annotations

import pandas as pd

from evaluation.profiling.timing import Interval
from reports.records.added_times import added_times


def test_added_times_are_those_of_one_image_eager_on_so_many_threads(tmp_path):
    base = {
        "method": "smoe-late", "model": "resnet50", "metric": "overhead_percent", "value": 2.0,
        "batch": 1, "device": "cpu", "precision": "float32", "compiled": False, "low": 1.5,
        "high": 2.5, "threads": 2,
    }  # fmt: skip
    others = [
        {"batch": 8, "value": 9.0},
        {"threads": 1, "value": 9.0},
        {"compiled": True, "value": 9.0},
        {"precision": "bfloat16", "value": 9.0},
        {"device": "cuda", "value": 9.0},
        {"metric": "map_ms", "value": 9.0},
        {"method": "fastcam", "value": 8.0},
    ]
    frame = pd.DataFrame([base, *({**base, **changed} for changed in others)])
    frame.to_parquet(tmp_path / "records.parquet")
    assert added_times(tmp_path, 2) == {
        "smoe-late": {"resnet50": Interval(2.0, 1.5, 2.5, 0.95)},
        "fastcam": {"resnet50": Interval(8.0, 1.5, 2.5, 0.95)},
    }
    assert added_times(tmp_path, 1) == {"smoe-late": {"resnet50": Interval(9.0, 1.5, 2.5, 0.95)}}
    assert added_times(tmp_path / "none", 2) == {}
