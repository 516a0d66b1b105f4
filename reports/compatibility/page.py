"""The tables of the page of compatibility, made from recorded rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from reports.compatibility.networks import GROUPS, NETWORKS
from reports.compatibility.refusals import REFUSALS, refused
from reports.compatibility.rows import FoundScale, Row, Share
from reports.formatting import markdown_table
from reports.marks import Marks

__all__ = ["INPUTS", "PARTS", "ROWS", "inputs_table", "parts_table", "rows_tables", "write_tables"]

_COMMAND = "python -m reports.compatibility"
ROWS = Marks(f"<!-- table of networks: {_COMMAND} -->", "<!-- end of networks -->", "the networks")
PARTS = Marks(f"<!-- table of parts: {_COMMAND} -->", "<!-- end of parts -->", "what is refused")
INPUTS = Marks(f"<!-- table of inputs: {_COMMAND} -->", "<!-- end of inputs -->", "the inputs")
# A map of an export that differs by no more is the same.
SAME = 1e-4
_HEAD = (
    *("network, input", "scales", "layout", "place", "alone", "sum", "SMOE Scale"),
    *("with_map", "torch.export", "ONNX", "Fast-CAM"),
)
# Names of layers and lists of them, in which messages of one kind differ.
_DETAILS = re.compile(r"'[^']*'|\([^)]*\)|on the way: .*|got [^;]*|\d+")


def write_tables(path: Path, rows: Mapping[str, Row]) -> None:
    """Write the tables between the marks of a page.

    Args:
        path: of the page.
        rows: by network.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the page does not have the marks.
    """
    ROWS.write(path, rows_tables(rows))
    PARTS.write(path, parts_table(rows))
    INPUTS.write(path, inputs_table())


def rows_tables(rows: Mapping[str, Row]) -> str:
    """One table for each group of networks, and the machine behind them.

    Args:
        rows: by network.
    """
    parts = []
    for group in GROUPS:
        mine = [rows[name] for name, one in NETWORKS.items() if one.group == group and name in rows]
        if mine:
            lines = [_HEAD, ("---",) * len(_HEAD), *map(_line, mine)]
            parts.append(f"### {group}\n\n{markdown_table(lines)}")
    absent = [f"`{name}`" for name in NETWORKS if name not in rows]
    if absent:
        parts.append(f"No row is recorded yet of {', '.join(absent)}.")
    return "\n" + "\n\n".join([*parts, _machine(rows.values())]) + "\n"


def parts_table(rows: Mapping[str, Row]) -> str:
    """The messages of what is refused, one line for networks whose messages are of one kind.

    Args:
        rows: by network.
    """
    kinds: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in NETWORKS:
        for part, message in rows[name].refused.items() if name in rows else ():
            kinds.setdefault((part, _DETAILS.sub("", message)), []).append((name, message))
    lines = [("refused by", "networks", "message, of the first"), ("---",) * 3]
    for (part, _), found in kinds.items():
        names = ", ".join(f"`{name}`" for name, _ in found)
        lines.append((f"`{part}`", names, _safe(found[0][1])))
    return f"\n{markdown_table(lines)}\n"


def inputs_table() -> str:
    """The messages of networks and inputs that are refused, each provoked now."""
    lines = [("network or input", "message"), ("---",) * 2]
    lines += [(what, _safe(refused(what))) for what in REFUSALS]
    return f"\n{markdown_table(lines)}\n"


def _line(row: Row) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape[1:]))
    if len(set(row.shape[1:])) == 1:
        shape = f"{row.shape[1]}" if len(row.shape) == 3 else shape
    return (
        f"`{row.network}`, {shape}",
        ", ".join(map(_scale, row.scales)) or "none",
        row.layout,
        _place(row),
        _milliseconds(row.forward_ms),
        _share(row.sums),
        _share(row.added),
        _same(row.with_map, "with_map" in row.refused),
        _same(row.program, row.program is None),
        _same(row.onnx, "write_onnx" in row.refused),
        "yes" if row.fast_cam else "no",
    )


def _scale(scale: FoundScale) -> str:
    one = len(set(scale.strides)) == 1
    strides = str(scale.strides[0]) if one else "x".join(map(str, scale.strides))
    name, _, what = scale.name.partition(", ")
    sign = " c" if scale.linear else " s" if scale.signed else ""
    return f"`{name}` {f'({what}) ' if what else ''}{strides}{sign}"


def _place(row: Row) -> str:
    if not row.finite:
        return "not finite"
    least, mean = min(row.place), sum(row.place) / len(row.place)
    return f"{mean:.2f}, least {least:.2f}{'' if least > 0.5 else ', **no**'}"


def _milliseconds(time: float) -> str:
    if not time:
        return "n.m."
    return f"{time:.0f} ms" if time >= 10 else f"{time:.1f} ms"


def _share(share: Share | None) -> str:
    if share is None:
        return "n.m."
    # -0.0 + 0.0 is 0.0.
    median, low, high = (
        round(one) + 0.0 if abs(one) >= 10 else round(one, 1) + 0.0 for one in share
    )
    return f"{median:g} ({low:g} to {high:g})"


def _same(difference: float | None, is_refused: bool) -> str:
    if difference is None:
        return "no" if is_refused else "n.m."
    return "yes" if difference <= SAME else f"{difference:.2g} off"


def _safe(message: str) -> str:
    return message.replace("|", "\\|").replace("<", "\\<")


def _machine(rows: Iterable[Row]) -> str:
    """One sentence on the machine, its load and the versions behind rows."""
    facts: dict[str, list[str]] = {}
    for row in rows:
        for key, value in row.facts.items():
            if value not in facts.setdefault(key, []):
                facts[key].append(value)
    loads = sorted(map(float, facts.pop("load", ["0"])))
    machine = " and ".join(facts.pop("processor", []))
    cores = " and ".join(facts.pop("cores", []))
    versions = ", ".join(_versions(facts))
    return (
        f"One thread of {machine}, {cores} cores, with a load of {loads[0]:g} to {loads[-1]:g} "
        f"while it ran; {versions}."
    )


def _versions(facts: Mapping[str, list[str]]) -> Iterator[str]:
    for name, found in facts.items():
        known = [one for one in found if one != "none"]
        if known:
            yield f"{name} {' and '.join(known)}"
