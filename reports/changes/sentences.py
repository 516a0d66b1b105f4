"""Sentences on the changes between two runs, made from their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from reports.analysis.rank_agreement import order_agreement
from reports.changes.orders import Order, orders
from reports.changes.settings import set_up
from reports.formatting import counted, headed, tau
from reports.measured.sentences import Said
from reports.records.run import Method, Run
from reports.verdicts import Verdict, title_of

__all__ = ["changes"]

_NOT_TOLD: Verdict = "not told from"
# The order of two methods is the first of them.
_FEWEST_OF_TAU = 3
_KINDS = ("the same", "newly told", "no longer told", "turned round")


def changes(run: Run, earlier: Run) -> list[Said]:
    """The changes since an earlier run: settings, verdicts, and the order by each score.

    Verdicts and orders are compared, not the scores, which are sums over other fractions or
    accuracies of other networks.

    Args:
        run: the later run.
        earlier: the run that it is held against.

    Raises:
        ValueError: the two runs have no score in common.
    """
    now, then = orders(run), orders(earlier)
    shared = [key for key in now if key in then]
    if not shared:
        raise ValueError(
            f"no score that both runs have: one has {_titles(now)}, the earlier {_titles(then)}. "
            "Give two runs of ROAR and KAR, or two without retraining"
        )
    pairs = [(now[key], then[key]) for key in shared]
    names = {**earlier.methods, **run.methods}
    return [
        Said("Set-up", " ".join(set_up(run, earlier))),
        Said("Verdicts", " ".join(_verdicts(pairs))),
        *(Said(headed(one.title), " ".join(_of_score(one, other, names))) for one, other in pairs),
    ]


def _titles(found: Mapping[str, Order]) -> str:
    return ", ".join(order.title for order in found.values()) or "none"


def _moves(now: Order, then: Order) -> Iterator[tuple[str, str, Verdict, Verdict]]:
    """Reference, method, and its verdict now and then, where both runs tested it."""
    for reference in now.verdicts:
        before = then.verdicts.get(reference, {})
        for name, verdict in now.verdicts[reference].items():
            if name in before:
                yield reference, name, verdict, before[name]


def _verdicts(pairs: list[tuple[Order, Order]]) -> Iterator[str]:
    """The number of verdicts that stayed, came, went and turned round."""
    found = [move[2:] for pair in pairs for move in _moves(*pair)]
    if not found:
        yield "No method was tested against the same reference in both."
        return
    kinds = Counter(_kind(now, then) for now, then in found)
    said = [
        f"{count} {'is' if count == 1 else 'are'} {kind}"
        for kind in _KINDS
        if (count := kinds[kind])
    ]
    total = f"Of {counted(len(found), 'verdict')} that both runs have, {', '.join(said)}"
    yield f"{total}." if kinds["turned round"] else f"{total}; none is turned round."


def _kind(now: Verdict, then: Verdict) -> str:
    if now == then:
        return "the same"
    if _NOT_TOLD in (now, then):
        return "newly told" if then == _NOT_TOLD else "no longer told"
    return "turned round"


def _of_score(now: Order, then: Order, methods: Mapping[str, Method]) -> Iterator[str]:
    yield _order(now, then, methods)
    for reference in now.verdicts:
        if reference in then.verdicts:
            said = list(_against(now, then, reference, methods))
            if said:
                yield f"Against {title_of(methods[reference])}: {'; '.join(said)}."


def _order(now: Order, then: Order, methods: Mapping[str, Method]) -> str:
    """The first of the methods that both rank, and the agreement of the two orders."""
    found = order_agreement(now.seeds, then.seeds, same_networks=False)
    if len(found.methods) < 2:
        return "Fewer than two methods are ranked by both."
    first, earlier = (
        title_of(methods[max(found.methods, key=lambda name: _mean(order, name, seeds))])
        for order, seeds in zip((now, then), found.seeds, strict=True)
    )
    said = f"Of {len(found.methods)} methods that both rank, {first} is first"
    said += " in both" if first == earlier else f", in the earlier run {earlier}"
    if found.tau is None or len(found.methods) < _FEWEST_OF_TAU:
        return f"{said}."
    said += f"; Kendall's tau of the two orders {tau(found.tau)}"
    if found.interval is None:
        return f"{said}, of too few methods for an interval."
    low, high = found.interval
    told = "" if low > 0 or high < 0 else ", not told from 0"
    return f"{said} ({tau(low)} to {tau(high)}){told}."


def _mean(order: Order, name: str, seeds: Sequence[int]) -> float:
    return mean(order.seeds[name][seed] for seed in seeds)


def _against(
    now: Order, then: Order, reference: str, methods: Mapping[str, Method]
) -> Iterator[str]:
    """The methods against one reference, grouped by what became of their verdict."""
    moves = [move[1:] for move in _moves(now, then) if move[0] == reference]
    groups: dict[str, list[str]] = {}
    for name, verdict, earlier in moves:
        if verdict == earlier:
            continue
        said = {
            "newly told": f"newly {verdict}",
            "no longer told": f"no longer {earlier}",
            "turned round": f"{verdict}, and {earlier} earlier",
        }[_kind(verdict, earlier)]
        groups.setdefault(said, []).append(title_of(methods[name]))
    for said, titles in groups.items():
        yield f"{said}: {', '.join(titles)}"
    same = sum(verdict == earlier for _, verdict, earlier in moves)
    if same:
        yield f"the same for {same} of {len(moves)}"
    first = [
        f"{title_of(methods[name])} ({verdict.removesuffix(' from')})"
        for name, verdict in now.verdicts[reference].items()
        if name not in then.verdicts[reference]
    ]
    if first:
        yield f"not tested in the earlier run: {', '.join(first)}"
    gone = [
        title_of(methods[name])
        for name in then.verdicts[reference]
        if name not in now.verdicts[reference]
    ]
    if gone:
        yield f"not tested in this run: {', '.join(gone)}"
