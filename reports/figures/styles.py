"""Colour, marker and dashes of each method: the same in every figure and key of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from reports.records.run import Method

__all__ = ["LineStyle", "key", "line_styles", "method_styles"]

# Told apart under deuteranopia and on white: seaborn's "colorblind" without its pale ones.
_COLOURS = ("#0173b2", "#d55e00", "#029e73", "#cc78bc", "#de8f05", "#56b4e9", "#8c564b")
# The numbers of colours, markers and dashes share no divisor: 63 pairs before one comes again.
_MARKERS = ("o", "s", "^", "D", "v", "*", "<", ">", "p")
_DASHES: tuple[Any, ...] = ("-", (0, (6, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
# No method has a control's marker, and none is black or grey.
_CONTROL_COLOURS = ("#000000", "#6b6b6b")
_CONTROL_MARKERS: tuple[Any, ...] = ("X", "P", "d", (4, 1, 0), "h", (3, 1, 0), "8", (6, 1, 0))
_CONTROL_DASHES: tuple[Any, ...] = (
    *((0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5))),
    *((0, (3, 1, 1, 1, 1, 1)), (0, (8, 3))),
)


@dataclass(frozen=True)
class LineStyle:
    """The look of a method in figures.

    Args:
        colour: as ``#rrggbb``.
        marker: as Matplotlib takes it.
        dashes: a line style of Matplotlib.
        control: True if it is black or grey.
    """

    colour: str
    marker: Any
    dashes: Any
    control: bool


def method_styles(methods: Iterable[Method]) -> dict[str, LineStyle]:
    """A style for each method by name, no two with the same colour and marker.

    Args:
        methods: all methods of a page, in one order for all its figures.
    """
    return line_styles({method.name: method.group == "control" for method in methods})


def line_styles(controls: Mapping[str, bool]) -> dict[str, LineStyle]:
    """A style for each name, no two with the same colour and marker.

    Args:
        controls: True for a control, by name.

    >>> styles = line_styles({"random": True, "gradient": False})
    >>> styles["random"].colour, styles["gradient"].colour
    ('#000000', '#0173b2')
    """
    styles: dict[str, LineStyle] = {}
    seen = {True: 0, False: 0}
    for name, control in controls.items():
        number = seen[control]
        seen[control] += 1
        if control:
            turn, place = divmod(number, len(_CONTROL_MARKERS))
            styles[name] = LineStyle(
                _CONTROL_COLOURS[turn % len(_CONTROL_COLOURS)],
                _CONTROL_MARKERS[place],
                _CONTROL_DASHES[number % len(_CONTROL_DASHES)],
                True,
            )
        else:
            styles[name] = LineStyle(
                _COLOURS[number % len(_COLOURS)],
                _MARKERS[number % len(_MARKERS)],
                _DASHES[number // len(_COLOURS) % len(_DASHES)],
                False,
            )
    return styles


def key(style: LineStyle) -> Markup:
    """A method's marker on its line as SVG for text; controls have the colour of the text.

    >>> "<svg" in key(LineStyle("#0173b2", "o", "-", False))
    True
    """
    colour = "currentColor" if style.control else style.colour
    marker = MarkerStyle(style.marker)
    outline = marker.get_path().transformed(marker.get_transform())
    pattern = "" if style.dashes == "-" else " ".join(f"{length:g}" for length in style.dashes[1])
    return Markup(
        '<svg class="key-mark" width="26" height="12" viewBox="-13 -6 26 12" aria-hidden="true">'
        '<path d="M-13 0H13" fill="none" stroke="{0}" stroke-width="1.6" stroke-dasharray="{1}"/>'
        '<path d="{2}" fill="{0}" transform="scale(7.5 -7.5)"/></svg>'
    ).format(colour, pattern or "none", _drawn(outline))


def _drawn(outline: Path) -> str:
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    parts = []
    for points, code in outline.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
        else:
            parts.append(letters[code] + " ".join(f"{value:.3g}" for value in points))
    return "".join(parts)
