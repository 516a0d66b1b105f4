"""Claims on scores, checked on runs that retrained networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.scoring.scores import kar_score, roar_score
from reports.analysis.layer_tables import RANDOM, LayerTable, measured
from reports.analysis.replacement import gains, replacements
from reports.formatting import counted, spread
from reports.paper import table_5
from reports.records.estimates import SCORE_TITLES, SCORES, Estimate
from reports.records.run import Run
from reports.reproduction.claims import Claim, command_of, of_kind, section

__all__: list[str] = []

_SMOE = "smoe_scale"
# Names of the harness's methods in Table 5.
_TABLE_5 = {
    "gradient": "Gradient",
    "guided-backprop": "Guided Backprop",
    "ig": "Integrated Grad.",
    "gradient-sgsq": "Gradient -w- SmoothGrad Sq.",
    "guided-backprop-sgsq": "Guided Backprop -w- SmoothGrad Sq.",
    "ig-sgsq": "Integrated Grad. -w- SmoothGrad Sq.",
    "smoe-prior": "SMOE Scale + Prior Layer Weights",
    "smoe-linear": "SMOE Scale + Layer Weights [1,...,5]",
    "smoe-equal": "SMOE Scale + Layer Weights [1,...,1]",
}


@section("Inside the network (Tables 1 and 4)")
def _inside(runs: Sequence[Run]) -> Iterator[Claim]:
    found = of_kind(runs, "layers")
    for run in found:
        names = [name for name in run.methods if name != RANDOM]
        table = measured(run.records, run.layers, names)
        yield from _inside_of(run, table)
    if not found:
        yield Claim(
            "Table 1",
            "SMOE Scale has the highest difference score",
            "1.",
            "equal to",
            1,
            None,
            command="python -m comparisons layers",
        )


def _inside_of(run: Run, table: LayerTable) -> Iterator[Claim]:
    scores = {name: table.difference(name) for name in table.ranked}
    means = {name: score.mean for name, score in scores.items() if score is not None}
    rank = list(means).index(_SMOE) + 1 if _SMOE in means else None
    where, command = _where(run, scores.get(_SMOE)), command_of(run)
    # Against the best of the others, in the same networks.
    other = next((name for name in means if name != _SMOE), None)
    lead = None if other is None else table.lead(_SMOE, other)
    yield Claim(
        "Table 1",
        "SMOE Scale has the highest difference score; its rank",
        "1.",
        "equal to",
        1,
        rank,
        unit=f"of {len(means)}",
        measured_on=where,
        command=command,
        note=", ".join(f"{name} {value:.3f}" for name, value in list(means.items())[:3])
        + (f"; less the best other {lead.mean:+.3f}{spread(lead, 1, 3)}" if lead else ""),
        told=lead is not None and lead.excludes_zero,
    )
    sure = [score for score in scores.values() if score is not None and score.excludes_zero]
    above, below = (sum(sign * score.mean > 0 for score in sure) for sign in (1, -1))
    yield Claim(
        "Table 1",
        "Statistics with a higher difference score than random locations",
        "all",
        "equal to",
        len(means),
        sum(value > 0 for value in means.values()) if means else None,
        unit=f"of {len(means)}",
        measured_on=where,
        command=command,
        note=f"{above} above and {below} below with an interval without 0",
        told=below > 0 or above == len(means),
    )
    by_layer = [table.difference(_SMOE, [layer]) for layer in run.layers]
    own = [score.mean for score in by_layer if score is not None]
    whole = len(own) == len(by_layer) > 1
    ahead = None
    if whole:
        last = max(range(len(own) - 1), key=lambda place: own[place])
        ahead = table.lead(_SMOE, _SMOE, [run.layers[-1]], [run.layers[last]])
    yield Claim(
        "prior layer weights",
        "The last scale weighs most: its difference score less the highest of the others'",
        "0.72 against 0.40",
        "more than",
        0.0,
        own[-1] - max(own[:-1]) if whole else None,
        measured_on=where,
        command=command,
        note=", ".join(f"{value:.3f}" for value in own)
        + ", the shallowest first"
        + (f"; {spread(ahead, 1, 3).strip()}" if ahead and ahead.interval else ""),
        told=ahead is not None and ahead.excludes_zero,
    )


@dataclass(frozen=True)
class _Lead:
    """The claim that a method's score is above the best of some others, as in Table 5.

    Args:
        score: key of `reports.records.estimates.SCORES`.
        own: name of the method.
        others: names of the others.
        called: the others in words; empty for one method, which is called by its title.
    """

    score: str
    own: str
    others: tuple[str, ...]
    called: str = ""

    @property
    def printed(self) -> float:
        """The lead in the paper's Table 5."""
        modes = SCORES[self.score]
        return _printed(self.own, modes) - max(_printed(name, modes) for name in self.others)

    def statement(self, own: str, other: str) -> str:
        """The claim in words.

        Args:
            own: title of the method.
            other: title of the best of the others.
        """
        return f"{SCORE_TITLES[self.score]} of {own} less that of {self.called or other}"


_GRADIENTS = ("gradient", "guided-backprop", "ig")
_SQUARED = tuple(f"{name}-sgsq" for name in _GRADIENTS)
_LEADS = (
    _Lead("kar", "smoe-linear", (*_GRADIENTS, *_SQUARED), "the best gradient method"),
    _Lead("roar", "smoe-linear", _GRADIENTS, "the best plain gradient method"),
    _Lead("total", "smoe-linear", _GRADIENTS, "the best plain gradient method"),
    _Lead("total", "gradient-sgsq", ("smoe-linear",)),
    _Lead("total", "smoe-prior", ("smoe-linear",)),
    _Lead("total", "smoe-linear", ("smoe-equal",)),
)


@section("On the input (Table 5)")
def _on_the_input(runs: Sequence[Run]) -> Iterator[Claim]:
    pairs = [(lead.own, other) for lead in _LEADS for other in lead.others]
    found = [(run, gains(run, pairs)) for run in of_kind(runs, "run")]
    for lead in _LEADS:
        nothing = True
        for run, by_pair in found:
            measured = {
                other: gain
                for other in lead.others
                if (gain := by_pair.get((lead.own, other, lead.score))) is not None
            }
            if measured:
                nothing = False
                best = min(measured, key=lambda other: measured[other].mean)
                titles = run.methods[lead.own].title, run.methods[best].title
                yield _gain_claim(
                    "Table 5",
                    lead.statement(*titles),
                    measured[best],
                    run,
                    claimed=f"{lead.printed:+.3f}",
                    note=f"the best is {titles[1]}" if lead.called else "",
                )
        if nothing:
            yield Claim(
                "Table 5",
                lead.statement(lead.own, lead.others[0]),
                f"{lead.printed:+.3f}",
                "more than",
                0.0,
                None,
                command="python -m comparisons run --methods paper",
            )


def _printed(method: str, modes: Sequence[str]) -> float:
    row = table_5().loc[_TABLE_5[method]]
    kar, roar = (row.filter(like=f"{mode}_").tolist() for mode in ("kar", "roar"))
    return (kar_score(kar) if "kar" in modes else 0.0) + (
        roar_score(roar) if "roar" in modes else 0.0
    )


@section("Fast-CAM in the place of Guided Backprop (section 4.2)")
def _fast_cam(runs: Sequence[Run]) -> Iterator[Claim]:
    statement = "By replacing Guided Backprop with SMOE Scale accuracy should increase"
    nothing = True
    for run in of_kind(runs, "run"):
        for row in replacements(run):
            for score, title in SCORE_TITLES.items():
                gain: Estimate | None = getattr(row.gain, score)
                if gain is not None:
                    nothing = False
                    pair = f"{row.methods['fast'].title} less {row.methods['guided'].title}"
                    yield _gain_claim("section 4.2", f"{statement}: {pair}, {title}", gain, run)
    if nothing:
        yield Claim(
            "section 4.2",
            statement,
            "better",
            "more than",
            0.0,
            None,
            command="python -m comparisons run --methods cams",
        )


def _gain_claim(
    place: str, statement: str, gain: Estimate, run: Run, *, claimed: str = "better", note: str = ""
) -> Claim:
    """The claim that the difference of two methods' scores is above 0."""
    sure = spread(gain, 1, 3).strip()
    if gain.interval is not None and gain.interval[0] <= 0 <= gain.interval[1]:
        sure += ", which holds 0"
    return Claim(
        place,
        statement,
        claimed,
        "more than",
        0.0,
        gain.mean,
        measured_on=_where(run, gain),
        command=command_of(run),
        note="; ".join(part for part in (sure or "one seed, no interval", note) if part),
        cells=gain.cells,
        told=gain.excludes_zero,
    )


def _where(run: Run, score: Estimate | None) -> str:
    """Network, images, fractions and seeds of a figure in words."""
    seeds = () if score is None else score.seeds
    data = run.data
    images = f", {counted(data['train'], 'training image')}" if data else ""
    shares = ", ".join(f"{100 * fraction:g}" for fraction in run.fractions)
    fractions = f"; {shares} %" if run.kind == "run" else ""
    return f"{run.model} on {run.dataset}{images}{fractions}; {counted(len(seeds), 'seed')}"
