"""Answers at the top of a page: the best method, its certainty, its controls and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evaluation.scoring.significance import PairedTest, paired_tests
from reports.analysis.certainty import Certainty
from reports.analysis.common_seeds import CommonRanking, score_of
from reports.analysis.overview import REFERENCES, Costs, SumsRow, time_metric
from reports.formatting import (
    counted,
    digits,
    estimated,
    p_value,
    probability,
    quantity,
    score,
)
from reports.records.estimates import SCORE_TITLES, Estimate
from reports.records.run import Method, Run
from reports.verdicts import Verdict, named, verdict_of

__all__ = ["Answer", "answers", "told", "verdicts"]

_LEVEL = 0.05
# One-sided share of resamples that a two-sided 5 % level asks for.
_SURE = 0.975


@dataclass(frozen=True)
class Answer:
    """A question of the reader with its answer in a sentence."""

    question: str
    text: str


def told(difference: Estimate, test: PairedTest | None) -> bool:
    """True if a difference is told from 0, of other seeds and of other test images.

    Its p after Holm's correction is below 0.05, which is of these test images, and its 95 %
    interval over seeds and test images leaves 0 out, which no correction widens.

    >>> sure, wide = (Estimate(0.2, (low, 0.3), (0, 1), ()) for low in (0.1, -0.1))
    >>> told(sure, PairedTest(0.01, 0.04)), told(sure, PairedTest(0.01, 0.3)), told(sure, None)
    (True, False, False)
    >>> told(wide, PairedTest(0.01, 0.04))
    False
    """
    return test is not None and test.adjusted < _LEVEL and difference.excludes_zero


def answers(run: Run, sure: Certainty, common: CommonRanking, costs: Costs) -> list[Answer]:
    """The first screen of a page: one answer a line; none before a method has a score.

    Args:
        run: the run.
        sure: its certainty.
        common: its methods in order, over common seeds.
        costs: estimates by metric and method.
    """
    if not common.methods:
        return []
    best = common.methods[0]
    found = [
        Answer("Best method", _best(best, common, sure)),
        Answer("How sure", _sure(sure, best)),
    ]
    for reference in (name for name in REFERENCES if name in run.methods):
        tests = _tests_of(sure, sure.ranked_by)
        control = run.methods[reference].title
        found.append(Answer(f"Told from {named(control)}?", _against(sure, best, reference, tests)))
    found.append(Answer("Cost of its map", _cost(best.method, costs)))
    for key, title in SCORE_TITLES.items():
        if (line := _line(run, sure, common, key)) is not None:
            found.append(Answer(title, line))
    return found


def _best(best: SumsRow, common: CommonRanking, sure: Certainty) -> str:
    own = score_of(best.sums, sure.ranked_by)
    count = len(common.seeds)
    seeds = f"{count} common seeds" if count > 1 else "one seed"
    said = f"{best.method.title}, by {sure.score}"
    if own is not None:
        said += f" {estimated(own)}"
    said += f": first of {counted(len(common.methods), 'method')} over {seeds}."
    above = [row.method.title for row in common.rows[: common.rows.index(best)]]
    if above:
        said += f" Above every method: the control{'s' if len(above) > 1 else ''} "
        said += f"{', '.join(above)}."
    return said


def _sure(sure: Certainty, best: SumsRow) -> str:
    if sure.seeds < 2:
        return "Not known: one seed has no interval and no test. More --seeds add them to this run."
    places = {entry.method.name: index for index, entry in enumerate(sure.ranking)}
    place = places.get(best.method.name)
    if place is None:
        return "Not known: its place cannot be resampled."
    entry = sure.ranking[place]
    low, high = entry.certainty.ranks
    said = f"95 % of its places, controls counted, are {low}" + (
        f" to {high} of {len(sure.ranking)}." if high > low else f" of {len(sure.ranking)}."
    )
    above = entry.certainty.above_next
    if above is not None and place + 1 < len(sure.ranking):
        after = sure.ranking[place + 1].method
        kind = "control" if after.group == "control" else "method"
        verdict = "told from it" if above >= _SURE else "not told from it"
        said += (
            f" Above the next {kind}, {after.title}, with a probability of "
            f"{probability(above)}: {verdict}."
        )
    return said


def verdicts(sure: Certainty, key: str) -> dict[str, dict[str, Verdict]]:
    """The verdicts of a score on the methods, by control and method.

    Controls and methods with one seed have none.

    Args:
        sure: the certainty of a run.
        key: of `SCORES`.
    """
    tests = _tests_of(sure, key)
    return {
        reference: {
            name: verdict_of(own.mean, told(own, tests[reference, name]))
            for name, entry in by_method.items()
            if (own := score_of(entry.sums, key)) is not None
            and len(own.seeds) > 1
            and _method(sure, name).group != "control"
        }
        for reference, by_method in sure.against.items()
    }


def _tests_of(sure: Certainty, key: str) -> Mapping[tuple[str, str], PairedTest | None]:
    """The paired tests of a score by control and method, corrected together by Holm's method.

    None for a method with one seed, or with the same difference in all.
    """
    values = {
        (reference, name): found.values
        for reference, by_method in sure.against.items()
        for name, entry in by_method.items()
        if (found := score_of(entry.sums, key)) is not None
    }
    return dict(zip(values, paired_tests(list(values.values())), strict=True))


def _counts(
    sure: Certainty,
    key: str,
    reference: str,
    tests: Mapping[tuple[str, str], PairedTest | None],
) -> str:
    """The number of methods told from a control, in words."""
    control = named(_method(sure, reference).title)
    above = below = tested = 0
    for name, entry in sure.against.get(reference, {}).items():
        difference = score_of(entry.sums, key)
        test = tests.get((reference, name))
        if _method(sure, name).group == "control" or difference is None or test is None:
            continue
        tested += 1
        above += told(difference, test) and difference.mean > 0
        below += told(difference, test) and difference.mean < 0
    if not tested:
        return f"no test against {control}"
    if not above and not below:
        return f"none told from {control}"
    parts = [f"{n} of {tested} told {way}" for n, way in ((above, "above"), (below, "below")) if n]
    return f"{' and '.join(parts)} {control}"


def _method(sure: Certainty, name: str) -> Method:
    return next(row.method for row in sure.rows if row.method.name == name)


def _against(
    sure: Certainty,
    best: SumsRow,
    reference: str,
    tests: Mapping[tuple[str, str], PairedTest | None],
) -> str:
    entry = sure.against.get(reference, {}).get(best.method.name)
    difference = None if entry is None else score_of(entry.sums, sure.ranked_by)
    if difference is None:
        return "Not measured: no seed has both."
    test = tests.get((reference, best.method.name))
    size = estimated(difference)
    if len(difference.values) < 2:
        return f"Not told: one seed, whose difference is {size}."
    if test is None:
        return f"Not tested: every seed has the same difference, {size}."
    sized = f"difference {size}, Holm's p {p_value(test.adjusted)}"
    if not difference.excludes_zero:
        sized += ", and its interval holds 0"
    counts = _counts(sure, sure.ranked_by, reference, tests)
    if told(difference, test):
        way = "above" if difference.mean > 0 else "below"
        return f"Yes, {way} it: {sized}. Of all methods, {counts}."
    return f"No: {sized}. Of all methods, {counts}."


def _cost(method: Method, costs: Costs) -> str:
    share = costs["overhead_percent"].get(method.name)
    metric = time_metric(costs)
    time = costs[metric.name].get(method.name)
    took = "" if time is None else f"{quantity(time.mean, metric.unit)} an image"
    if share is not None:
        return f"{digits(share.mean)} % of a forward pass" + (f"; {took}." if took else ".")
    return (
        f"Not measured in percent of a forward pass{f' ({took} in this run)' if took else ''}: "
        f"python -m comparisons profile --methods {method.name}"
    )


def _line(run: Run, sure: Certainty, common: CommonRanking, key: str) -> str | None:
    """KAR, ROAR or SUM in one line; None if no method has it."""
    scored = [(row, found) for row in common.rows if (found := score_of(row.sums, key)) is not None]
    methods = [(row, found) for row, found in scored if row.method.group != "control"]
    if not methods:
        return None
    best, own = max(methods, key=lambda pair: pair[1].mean)
    by_name = {row.method.name: found for row, found in scored}
    controls = {name: by_name[name] for name in REFERENCES if name in by_name}
    beside = ", ".join(
        f"{named(run.methods[name].title)} {score(found.mean)}" for name, found in controls.items()
    )
    said = f"{best.method.title} {estimated(own)}" + (f" ({beside})" if beside else "")
    return "; ".join((said, *_told_parts(sure, key, list(controls)))) + "."


def _told_parts(sure: Certainty, key: str, references: Sequence[str]) -> Iterator[str]:
    if sure.seeds < 2:
        yield "one seed, not told"
        return
    tests = _tests_of(sure, key)
    found = {reference: _counts(sure, key, reference, tests) for reference in references}
    if len(found) > 1 and all(said.startswith("none told") for said in found.values()):
        names = [named(_method(sure, reference).title) for reference in found]
        yield f"none told from {' or '.join(names)}"
    else:
        yield from found.values()
