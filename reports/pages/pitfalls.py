"""The objection of “On Pitfalls of ROAR”, and what the controls of a run say about it."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.masking.variants import BLURRED
from reports.analysis.replacement import gains
from reports.formatting import percent, score, spread
from reports.records.estimates import SCORE_TITLES, Estimate
from reports.records.run import Run

__all__ = ["CLAIM", "pitfalls"]

CLAIM = (
    "“On Pitfalls of RemOve-And-Retrain” (Song et al., arXiv 2304.13836 v5) holds against ROAR "
    "that a map can rank better without telling more about the network: a blur, which adds nothing "
    "to what a map says of the network, improves its rank in ROAR, and in ROAD."
)
_BLOBS, _RANDOM = "random-blobs", "random"
# Methods named with their figure; of more, the two ends.
_NAMED = 4


def pitfalls(run: Run) -> list[str]:
    """The two sentences: the objection, and the run's own controls.

    Args:
        run: the run.

    Returns:
        The sentences; a control that the run lacks reads "not measured", with what its command
        needs to measure it.
    """
    if run.axes == 2:
        parts = [_blur(run), _masks(run), _blobs(run)]
    else:
        parts = [_masks(run), f"there are no blurred maps and random blobs of {run.grid.samples}"]
    return [CLAIM, f"In this run: {'; '.join(parts)}."]


def _blur(run: Run) -> str:
    pairs = [(name, name.removesuffix(BLURRED)) for name in run.methods if name.endswith(BLURRED)]
    by_pair = gains(run, pairs) if pairs else {}
    found = [
        (run.methods[plain].title, gain)
        for blurred, plain in pairs
        if plain in run.methods and (gain := by_pair.get((blurred, plain, "roar"))) is not None
    ]
    if not found:
        own = next((name for name in run.methods if run.methods[name].group != "control"), "NAME")
        return f"what a blur gains: {_lacking(run, [] if pairs else [own + BLURRED])}"
    up, down = (
        sum(sign * gain.mean > 0 and gain.excludes_zero for _, gain in found) for sign in (1, -1)
    )
    found.sort(key=lambda pair: -pair[1].mean)
    shown = found if len(found) <= _NAMED else [found[0], found[-1]]
    figures = ", ".join(f"{title} {_signed(gain.mean)}{_interval(gain)}" for title, gain in shown)
    ends = "" if shown == found else "from most to least "
    if all(gain.interval is None for _, gain in found):
        return f"a blur changes the {SCORE_TITLES['roar']} score by, not tested, {ends}{figures}"
    return (
        f"a blur raises the {SCORE_TITLES['roar']} score of {up} of {len(found)} methods and "
        f"lowers that of {down}, told from 0 ({ends}{figures})"
    )


def _masks(run: Run) -> str:
    accuracies = {
        place: found for place, found in run.mask_only_accuracies.items() if place[1] == "roar"
    }
    if not accuracies:
        return "accuracy from the masks alone: not measured (add --mask-only roar:50)"
    at = max(place[2] for place in accuracies)
    own = {place[0]: found.mean for place, found in accuracies.items() if place[2] == at}
    low, high = min(own, key=own.__getitem__), max(own, key=own.__getitem__)
    chance = "" if run.chance is None else f", where chance is {percent(run.chance)} %"
    masks = f"the masks alone at {100 * at:g} % removed"
    if own[low] == own[high]:
        only = run.methods[low].title if len(own) == 1 else "each method"
        return f"{masks} let a network classify {percent(own[low])} % ({only}){chance}"
    return (
        f"{masks} let a network classify from {percent(own[low])} % ({run.methods[low].title}) "
        f"to {percent(own[high])} % ({run.methods[high].title}){chance}"
    )


def _blobs(run: Run) -> str:
    others = [
        name for name, entry in run.methods.items()
        if entry.group != "control" and not name.endswith(BLURRED)
    ]  # fmt: skip
    wanted = [(_BLOBS, _RANDOM), *((name, _BLOBS) for name in others)]
    found = gains(run, wanted) if {_BLOBS, _RANDOM} <= run.methods.keys() else {}
    gain = found.get((_BLOBS, _RANDOM, "roar"))
    if gain is None:
        return f"random blobs against random pixels: {_lacking(run, [_RANDOM, _BLOBS])}"
    above = [own for name in others if (own := found.get((name, _BLOBS, "roar"))) is not None]
    blobs = (
        f"random blobs, which know nothing of the image, get a {SCORE_TITLES['roar']} of "
        f"{_signed(gain.mean)}{_interval(gain)} against random pixels"
    )
    tested = [own for own in above if own.interval is not None]
    if not tested:
        better = sum(own.mean > 0 for own in above)
        return f"{blobs}, and {better} of {len(above)} methods are above them, not tested"
    told = sum(own.mean > 0 and own.excludes_zero for own in tested)
    return f"{blobs}, and {told} of {len(tested)} methods are told above them"


def _lacking(run: Run, wanted: Sequence[str]) -> str:
    """What is not measured, and why: methods are not in the plan, or they are not finished."""
    absent = " and ".join(name for name in wanted if name not in run.methods)
    why = f"add {absent} to --methods" if absent else "not finished"
    return f"not measured ({why})"


def _signed(value: float) -> str:
    return f"+{score(value)}" if value > 0 else score(value)


def _interval(gain: Estimate) -> str:
    return spread(gain, 1, 3) or " (one seed)"
