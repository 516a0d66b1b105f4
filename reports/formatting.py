"""Numbers as pages print them, and the ids of the records behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from reports.records.estimates import Estimate

__all__ = [
    "counted",
    "digits",
    "duration",
    "estimated",
    "estimated_percent",
    "headed",
    "markdown_table",
    "origin",
    "p_value",
    "percent",
    "probability",
    "quantity",
    "score",
    "shade",
    "share",
    "slug",
    "spread",
    "tau",
    "trace",
]


def counted(count: int, noun: str) -> str:
    """A number of things, with the noun in its singular or plural.

    >>> counted(1, "worker"), counted(2000, "image"), counted(3, "class")
    ('1 worker', '2,000 images', '3 classes')
    """
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def markdown_table(lines: Iterable[Sequence[str]]) -> str:
    """Lines of cells as a table in Markdown; the second line is that of the dashes.

    >>> print(markdown_table([["map", "mass"], ["---", "---"], ["random", "0.1"]]))
    | map | mass |
    | --- | --- |
    | random | 0.1 |
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def headed(words: str) -> str:
    """Words as a heading: the first letter is a capital.

    >>> headed("insertion less deletion"), headed("ROAD")
    ('Insertion less deletion', 'ROAD')
    """
    return words[:1].upper() + words[1:]


def percent(value: float) -> str:
    """A fraction in percent with one decimal.

    >>> percent(0.6353)
    '63.5'
    """
    return f"{100 * value:.1f}"


def probability(share: float) -> str:
    """A share of resamples in percent, never 0 and never 100.

    >>> probability(0.5), probability(1.0), probability(0.001)
    ('50 %', '> 99 %', '< 1 %')
    """
    if share > 0.99:
        return "> 99 %"
    return "< 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def p_value(p: float) -> str:
    """A p-value to two digits.

    >>> p_value(0.0371), p_value(0.00002)
    ('0.037', '< 0.001')
    """
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def share(fraction: float) -> str:
    """A fraction of the pixels in percent, for headings.

    >>> share(0.1)
    '10 %'
    """
    return f"{100 * fraction:g} %"


def spread(estimate: Estimate, scale: float, digits: int) -> str:
    """The half-width of an interval behind a plus-minus sign; empty for one seed.

    >>> spread(Estimate(0.5, (0.488, 0.512), (0, 1), ()), 100, 1)
    ' ± 1.2'
    """
    half = estimate.half_width
    return "" if half is None else f" ± {scale * half:.{digits}f}"


def score(value: float) -> str:
    """A sum of accuracies with three decimals and a true minus sign.

    >>> score(-2.3061), score(-0.0001)
    ('\N{MINUS SIGN}2.306', '0.000')
    """
    # A value that rounds to 0 has no sign: -0.0 + 0.0 is 0.0.
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")


def estimated(estimate: Estimate) -> str:
    """A score with the half-width of its interval, if it has one.

    >>> estimated(Estimate(-0.5, (-0.512, -0.488), (0, 1), ()))
    '\N{MINUS SIGN}0.500 ± 0.012'
    >>> estimated(Estimate(1.0, None, (0,), ()))
    '1.000'
    """
    return score(estimate.mean) + spread(estimate, 1, 3)


def estimated_percent(estimate: Estimate) -> str:
    """A share in percent with the half-width of its interval, if it has one.

    >>> estimated_percent(Estimate(0.5, (0.488, 0.512), (0, 1), ()))
    '50.0 % ± 1.2'
    """
    return f"{percent(estimate.mean)} %{spread(estimate, 100, 1)}"


def tau(value: float) -> str:
    """A rank correlation with two decimals and a true minus sign.

    >>> tau(-0.3333)
    '\N{MINUS SIGN}0.33'
    """
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def shade(level: float) -> str:
    """A level clipped to [0, 1], for the strength of a table cell's colour.

    >>> shade(1.04)
    '1.00'
    """
    return f"{min(max(level, 0.0), 1.0):.2f}"


def quantity(value: float, unit: str) -> str:
    """A cost to three digits, with a unit prefix where the number is long.

    >>> quantity(9_249_093, "FLOP"), quantity(117_000, "B"), quantity(0.3942, "ms")
    ('9.25 MFLOP', '114 KiB', '0.394 ms')
    >>> quantity(610_000, "operations"), quantity(12, "operations")
    ('610 k', '12')
    """
    base, prefixes = (
        (1024.0, ("", "Ki", "Mi", "Gi")) if unit == "B" else (1000.0, ("", "k", "M", "G"))
    )
    step = 0
    if unit in ("B", "FLOP", "operations"):
        while abs(value) >= base and step < len(prefixes) - 1:
            value /= base
            step += 1
    # 999.6 and 1012 must not turn into an exponent.
    number = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    # Headings name the unit of operations.
    return f"{number} {prefixes[step]}{'' if unit == 'operations' else unit}".rstrip()


def digits(value: float) -> str:
    """A number to at least three digits, without an exponent, with a true minus sign.

    >>> digits(0.12345), digits(4921.3), digits(-0.00001)
    ('0.123', '4921', '\N{MINUS SIGN}0')
    """
    # 999.6 and 0.00001 must not turn into an exponent.
    number = f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 4):.3g}"
    return number.replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours.

    >>> duration(42), duration(5400)
    ('42 s', '1.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def origin(estimate: Estimate) -> str:
    """The seeds and cells of an estimate, and the number that it was derived from, as text.

    >>> origin(Estimate(0.5, None, (0,), ("c0ffee",)))
    'seed 0, one seed, no interval; cell c0ffee'
    """
    seeds = [str(seed) for seed in estimate.seeds if seed is not None]
    parts = []
    if seeds:
        parts.append(
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
            f"{', one seed, no interval' if estimate.interval is None else ''}"
        )
    cells = estimate.cells
    shown = ", ".join(cells[:6]) + (f" and {len(cells) - 6} more" if len(cells) > 6 else "")
    parts.append(f"cell{'s' if len(cells) > 1 else ''} {shown}")
    if estimate.derived_from:
        parts.append(f"derived from {estimate.derived_from}")
    return "; ".join(parts)


def slug(name: str) -> str:
    """A name made fit for an HTML id; different names stay different.

    >>> slug("smoe linear"), slug("smoe-linear")
    ('smoe_20linear', 'smoe-linear')
    """
    return re.sub(r"[^A-Za-z0-9-]", lambda found: f"_{ord(found[0]):x}", name)


def trace(metric: str, method: str, mode: str = "unmasked", fraction: float | None = None) -> str:
    """The HTML id of the records behind a number.

    >>> trace("accuracy", "random", "roar", 0.5)
    'record-accuracy-random-roar-50'
    """
    place = "" if fraction is None else f"-{slug(f'{100 * fraction:g}')}"
    return f"record-{slug(metric)}-{slug(method)}-{slug(mode)}{place}"
