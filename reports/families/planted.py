"""The command ``python -m reports.families.planted RUN``: maps held against objects that are known.

It prints a table of a recorded run on the set ``volumes`` or ``signals``: the share of each map's
mass that lies in the object, and the accuracies under ROAR and KAR, each with its 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from evaluation.scoring.scores import t_interval
from reports.formatting import markdown_table, share
from reports.records.estimates import Estimate, binomial_interval
from reports.records.reading import read_run
from reports.records.run import Run

__all__ = ["table"]

_METRIC = "mass_in_object"


def table(folder: Path) -> str:
    """The table of a run as Markdown, its methods in the order of the page.

    Intervals of the mass are Student's over the test images that were measured, those of an
    accuracy Wilson's over all test images. Both leave out that another training would give others.

    Args:
        folder: of the run or of its archive.

    Raises:
        ValueError: a run without the measure ``localisation``.
    """
    run = read_run(folder)
    masses = _masses(run)
    if not masses:
        raise ValueError(
            f"{folder} has no mass in the object: expected a run with --measures localisation on "
            "images whose objects are known"
        )
    places = [(mode, fraction) for mode in run.modes for fraction in run.fractions]
    headings = [f"{mode.upper()} {share(fraction)}" for mode, fraction in places]
    lines = [("map", "mass in the object", *headings)]
    lines.append(("---",) * len(lines[0]))
    images = run.data.get("test")
    for name, values in masses.items():
        found = [run.accuracies.get((name, mode, fraction)) for mode, fraction in places]
        lines.append(
            (
                run.methods[name].title,
                _spread(fmean(values), t_interval(values)),
                *("not measured" if each is None else _accuracy(each, images) for each in found),
            )
        )
    return markdown_table(lines)


def _masses(run: Run) -> dict[str, list[float]]:
    """The share of each test image by method, the mean over seeds."""
    found: dict[str, dict[float, list[float]]] = {name: {} for name in run.methods}
    for cell in run.cells("measure"):
        if cell.spec["measure"] == "localisation":
            for entry in cell.history:
                of_image = found[cell.spec["method"]].setdefault(entry["image"], [])
                of_image.append(entry[_METRIC])
    return {
        name: [fmean(seeds) for seeds in images.values()]
        for name, images in found.items()
        if images
    }


def _accuracy(found: Estimate, images: int | None) -> str:
    """An accuracy; of one seed, with the interval over test images."""
    return _spread(found.mean, found.interval or binomial_interval(found.mean, images))


def _spread(mean: float, interval: tuple[float, float] | None) -> str:
    """A share and its interval in percent."""
    if interval is None:
        return f"{100 * mean:.1f}"
    return f"{100 * mean:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def _tables(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        run = read_run(folder)
        whole = run.unmasked
        said = f"{run.dataset}, {run.model}"
        if whole is not None:
            said += f", unmasked accuracy {_accuracy(whole, run.data.get('test'))} %"
        yield f"{said}; in percent:\n\n{table(folder)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each run."""
    parser = argparse.ArgumentParser(prog="python -m reports.families.planted", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders or archives")
    options = parser.parse_args(arguments)
    print("\n\n".join(_tables(options.runs)))


if __name__ == "__main__":
    main()
