"""The records of finished cells as one data frame, and selections of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields

import pandas as pd

from evaluation.masking.tracks import Track
from evaluation.storage.records import CellResult, Record

__all__ = [
    "TRACK_COLUMNS",
    "conflicts",
    "drop_superseded",
    "of_metric",
    "of_track",
    "records_frame",
]

_COLUMNS = [field.name for field in fields(Record)]
# The columns that tell variants of ROAR and KAR apart: the fields of a track.
TRACK_COLUMNS = [field.name for field in fields(Track)]
# Two records that agree in these columns are the same number.
_KEY = ["dataset", "model", "method", "mode", "fraction", "layer", "metric", "seed"]
_KEY += TRACK_COLUMNS

_MOST_CONFLICTS = 5


def records_frame(results: Iterable[CellResult]) -> pd.DataFrame:
    """One row a record, a column a field; parameters as JSON text.

    Args:
        results: finished cells, older ones first.

    Returns:
        A frame of 18 columns; `seed` is a nullable integer, a missing fraction NaN.

    >>> records_frame([]).shape
    (0, 18)
    """
    rows = [
        {name: getattr(record, name) for name in _COLUMNS}
        | {"parameters": json.dumps(dict(record.parameters), sort_keys=True)}
        for result in results
        for record in result.records
    ]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    numbers = {"fraction": "float64", "value": "float64", "seed": "Int64", "recursive": "bool"}
    typed: pd.DataFrame = frame.astype({name: numbers.get(name, "string") for name in _COLUMNS})
    return typed


def drop_superseded(records: pd.DataFrame) -> pd.DataFrame:
    """Where two cells measured the same number, the later one's record alone."""
    latest: pd.DataFrame = records.drop_duplicates(_KEY, keep="last").reset_index(drop=True)
    return latest


def of_track(records: pd.DataFrame, track: Track) -> pd.DataFrame:
    """The records of one track, and those that no track changes: of networks without a mask.

    Args:
        records: as `records_frame`.
        track: how ROAR and KAR were read.

    Returns:
        The rows, in their order.
    """
    same = pd.Series(True, index=records.index)
    for name, value in asdict(track).items():
        same &= records[name] == value
        if name == "fill":  # a map, and what it costs, knows nothing of what is done with it
            same |= records["mode"] == "unmasked"
    found: pd.DataFrame = records[same | (records["method"] == "none")]
    return found


def of_metric(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The records of a metric on the input; those of a layer are another experiment."""
    rows: pd.DataFrame = records[(records["metric"] == metric) & records["layer"].isna()]
    return rows


def conflicts(records: pd.DataFrame) -> list[str]:
    """One sentence for each number that several cells measured, a few of them spelt out."""
    # How long a training waited is no such number: trainings of several kinds share its place.
    numbers = records[records["metric"] != "data_wait_share"]
    repeated = numbers[numbers.duplicated(_KEY, keep=False)]
    found = [
        f"{len(group)} cells measured the {key[6]} of {key[2]}, {key[3]}"
        f"{'' if pd.isna(key[4]) else f' {100 * key[4]:g} %'}"
        f"{'' if pd.isna(key[7]) else f', seed {key[7]}'}: {', '.join(group['cell'])}. The "
        "directory holds runs of different plans; the page shows the latest cell's."
        for key, group in repeated.groupby(_KEY, dropna=False, sort=False)
        if isinstance(key, tuple)
    ]
    more = len(found) - _MOST_CONFLICTS
    return found[:_MOST_CONFLICTS] + ([f"So did they for {more} more numbers."] if more > 0 else [])
