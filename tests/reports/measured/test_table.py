"""The table of photographs is that of the recorded run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.measured.table import MARKS, RUN, short, table

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "results" / "photographs.md"


def test_the_page_has_the_recorded_table():
    page = PAGE.read_text(encoding="utf-8")
    assert MARKS.put(page, table(RUN)) == page, f"python -m reports.measured --into {PAGE}"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert MARKS.put(readme, short(RUN)) == readme, "... --short --into README.md"


def test_every_method_of_the_recorded_run_was_measured_on_the_same_thousand_images():
    from reports.measured.scores import scored
    from reports.records.reading import read_run

    for each in scored(read_run(RUN)):
        for own in each.methods.values():
            assert len(own.images) == 1000
            assert len(set(own.images.tolist())) == 1000


def test_a_run_without_scores_is_refused(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)):
        table(tmp_path)
