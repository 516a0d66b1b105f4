"""Records of finished cells as a data frame, and selections of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, fields

import pandas as pd

from evaluation.masking.variants import Variant
from evaluation.storage.records import CellResult, Record

__all__ = [
    "VARIANT_COLUMNS",
    "conflicts",
    "drop_superseded",
    "of_metric",
    "of_variant",
    "records_frame",
]

_COLUMNS = [field.name for field in fields(Record)]
# Columns that tell variants of ROAR and KAR apart.
VARIANT_COLUMNS = [field.name for field in fields(Variant)]
# Two records that agree in these columns are the same number.
_KEY = ["dataset", "model", "method", "mode", "fraction", "layer", "metric", "seed"]
_KEY += VARIANT_COLUMNS

_MOST_CONFLICTS = 5


def records_frame(results: Iterable[CellResult]) -> pd.DataFrame:
    """A data frame of records: a row a record, a column a field, parameters as JSON text.

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
    """Records without those of numbers that a later cell measured again."""
    latest: pd.DataFrame = records.drop_duplicates(_KEY, keep="last").reset_index(drop=True)
    return latest


def of_variant(records: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The records of one variant of ROAR and KAR, and those of networks without a mask.

    Args:
        records: as `records_frame`.
        variant: fill, mask unit, target and recursion.

    Returns:
        The rows, in their order.
    """
    same = pd.Series(True, index=records.index)
    for name, value in asdict(variant).items():
        same &= records[name] == value
        if name == "fill":  # neither a map nor its cost depends on the fill
            same |= records["mode"] == "unmasked"
    found: pd.DataFrame = records[same | (records["method"] == "none")]
    return found


def of_metric(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Records of a metric, without those inside the network."""
    rows: pd.DataFrame = records[(records["metric"] == metric) & records["layer"].isna()]
    return rows


def conflicts(records: pd.DataFrame) -> list[str]:
    """Warnings about numbers that several cells measured: a sentence each for the first five."""
    # Trainings of several kinds share one place in the table of waiting times: no conflict.
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
