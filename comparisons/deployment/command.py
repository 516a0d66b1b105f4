"""`python -m comparisons.deployment.command [NAME ...]`: the cost of deployment, as tables."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from comparisons.deployment import exported, large, moving, seams, watched
from comparisons.deployment.tables import TABLES
from evaluation.storage.store import write_atomically

_RECORDED = Path(__file__).parents[2] / "reports" / "runs" / "deployment"

Row = Mapping[str, object]


def _exported() -> Iterable[Row]:
    with TemporaryDirectory() as folder:
        yield from exported.rows(Path(folder))


MEASUREMENTS: dict[str, Callable[[], Iterable[Row]]] = {
    "exported": _exported,
    "large": large.rows,
    "moving": moving.rows,
    "seams": seams.rows,
    "watched": watched.rows,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is named, else everything; write `NAME.csv` and print the README's rows."""
    parser = argparse.ArgumentParser(
        prog="python -m comparisons.deployment.command", description=__doc__
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--out", type=Path, default=_RECORDED, help="folder")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in MEASUREMENTS:
            parser.error(f"{name!r} is none of {', '.join(MEASUREMENTS)}")
    for name in options.names or MEASUREMENTS:
        rows = []
        for row in MEASUREMENTS[name]():
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
        write_atomically(options.out / f"{name}.csv", lambda file: file.write(content))  # noqa: B023
        print(TABLES[name](options.out / f"{name}.csv"))


if __name__ == "__main__":
    main()
