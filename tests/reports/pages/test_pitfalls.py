"""The two sentences on what is held against ROAR, from runs with planted controls."""

from __future__ import annotations

import pytest

from evaluation.storage.records import Record
from reports import build
from reports.pages.pitfalls import CLAIM, pitfalls
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

GROUPS = {
    "random": ("control", 0.20, 0.25),
    "random-blobs": ("control", 0.30, 0.25),
    "smoe-linear": ("smoe", 0.42, 0.33),
    "smoe-linear+blur": ("smoe", 0.50, 0.33),
    "gradient": ("gradient", 0.22, 0.30),
    "gradient+blur": ("gradient", 0.10, 0.30),
}


def _accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
    lost = GROUPS[method][1]
    # A little noise over seeds, so that differences have an interval.
    return round(0.75 - lost * fraction + 0.002 * ((seed + len(method)) % 2), 6)


def test_gains_of_a_blur_masks_and_blobs_are_those_of_the_records(new_run):
    run = read_run(new_run(methods=GROUPS, accuracy=_accuracy, seeds=(0, 1, 2, 3)))
    claim, ours = pitfalls(run)
    assert claim == CLAIM
    # ROAR is minus the sum over 10, 50 and 90 %: what is lost there, times 1.5.
    for name, gain in (("smoe-linear", 0.08), ("gradient", -0.12)):
        found = run.differences(name, "roar")[f"{name}+blur"].mean
        assert found == pytest.approx(1.5 * gain, abs=0.01)
        shown = f"{found:+.3f}".replace("-", "\N{MINUS SIGN}")
        assert f"{run.methods[name].title} {shown} ± " in ours
    assert "of 2 methods" in ours
    assert "masks alone at 50 % removed let a network classify from 25.0 % (" in ours
    assert "to 33.0 % (" in ours
    assert "where chance is 25.0 %" in ours
    blobs = run.differences("random", "roar")["random-blobs"].mean
    assert f"a ROAR of +{blobs:.3f} ± " in ours
    assert "of 2 methods are told above them" in ours
    assert ours.count("not measured") == 0


def test_controls_that_a_run_lacks_read_not_measured_with_what_to_add(new_run):
    methods = {name: GROUPS[name] for name in ("random", "gradient")}
    path = new_run(methods=methods, accuracy=_accuracy)
    for cell in (path / "cells").glob("mask-*"):
        cell.unlink()
    _, ours = pitfalls(read_run(path))
    assert "a blur gains: not measured (add gradient+blur to --methods)" in ours
    assert "alone: not measured (add --mask-only roar:50)" in ours
    assert "random pixels: not measured (add random-blobs to --methods)" in ours
    html = build(path).read_text()
    assert 'id="pitfalls"' in html
    assert "add gradient+blur to" in html


def test_one_seed_is_not_told(new_run):
    run = read_run(new_run(methods=GROUPS, accuracy=_accuracy, seeds=(0,)))
    for cell in run.results:  # without bits of the test images, which would give an interval
        assert isinstance(cell.records, tuple)
        assert all(isinstance(record, Record) for record in cell.records)
    _, ours = pitfalls(run)
    names = ("smoe-linear", "gradient")
    gains = [run.differences(name, "roar")[f"{name}+blur"].mean for name in names]
    figures = [f"{gain:+.3f} (one seed)".replace("-", "\N{MINUS SIGN}") for gain in gains]
    (first, gain), (second, loss) = zip(
        [run.methods[name].title for name in names], figures, strict=True
    )
    assert f"a blur changes the ROAR score by, not tested, {first} {gain}, {second} {loss}" in ours
    # SMOE Scale loses more than the blobs do, the gradient less.
    assert "(one seed) against random pixels, and 1 of 2 methods are above them, not tested" in ours
