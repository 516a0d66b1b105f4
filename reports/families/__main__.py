"""The command ``python -m reports.families``: the last scale of one network of every family."""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from reports.families.measurement import (
    Measurement,
    read_measurements,
    survey,
    write_measurements,
)
from reports.families.networks import all_families
from reports.families.page import write_page

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "reports" / "runs" / "families" / "families.jsonl"
PAGE = ROOT / "docs" / "families.md"
OUT = Path("runs/families")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the families that are not recorded, one line for each, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m reports.families", description=__doc__)
    parser.add_argument("families", nargs="*", help="parts of families' names; all without any")
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure recorded families anew, each on the network that was chosen before",
    )
    for name, default, what in (
        ("--records", OUT / RECORDS.name, "JSON lines, one a family; those in it are not measured"),
        ("--page", OUT / PAGE.name, "the page to write"),
    ):
        parser.add_argument(name, type=Path, default=default, help=f"{what} ({default})")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    measured = read_measurements(options.records)
    families = {
        family: names
        for family, names in all_families().items()
        if not options.families or any(part in family for part in options.families)
    }
    if options.again:
        for family in families.keys() & measured.keys():
            measured[family] = Measurement(family, measured[family].network)
        write_measurements(options.records, measured.values())
    for family, names in families.items():
        recorded = measured.get(family)
        if recorded is not None and (recorded.size or recorded.error):
            continue
        start = time.monotonic()
        measured[family] = survey(family, names if recorded is None else [recorded.network])
        # After each, so that the command goes on where it was stopped.
        write_measurements(options.records, measured.values())
        print(f"{_line(measured[family])}  {time.monotonic() - start:.0f} s", flush=True)
        gc.collect()
    write_page(options.page, measured.values())


def _line(found: Measurement) -> str:
    missed = " ".join(f"{scale.missed:.0%}" for scale in found.scales)
    last = found.scales[-1].name if found.scales else found.error[:60]
    shares = f"{found.after:.1%} after, {found.beside:.1%} beside"
    return f"{found.family:38} {found.network:40} {shares} {last}; missed {missed}"


if __name__ == "__main__":
    main()
