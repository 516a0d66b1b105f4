"""Content of the page of a run that measured costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from reports.analysis.cost_claims import RATIO_GOALS, Verdict, claims, judged
from reports.analysis.cost_rows import NETWORK_ALONE, Ratio, Setting, TimeRow, TimeTable
from reports.analysis.cost_tables import CostTables, cost_tables
from reports.costs.added_times import METHOD_TITLES, added_times
from reports.costs.form_goals import FormRow, form_rows
from reports.figures.charts import Chart, chart
from reports.figures.costs import added_time_figure, memory_figure
from reports.pages.provenance import set_up, traced
from reports.records.run import GROUPS, Run

__all__ = ["costs_context"]

# The network of the paper's ratios; for others they are shown without a goal.
_RATIOS_OF = "resnet50"
# Titles of the forms that a network runs in: compiled or not, with CUDA graphs or without.
_FORMS = {
    (False, False): "eager",
    (True, False): "compiled",
    (True, True): "compiled with CUDA graphs",
}
_NO_PEERS = ("control", "smoe", "activation", "other")


@dataclass(frozen=True)
class Peer:
    """Added time of a method over that of SMOE Scale, a ratio a batch."""

    title: str
    group: str
    goal: float | None
    ratios: tuple[Ratio | None, ...]

    def verdict(self, ratio: Ratio) -> Verdict:
        """A ratio held against the goal."""
        if self.goal is None:
            return Verdict(None)
        return judged(ratio, self.goal, at_most=False)


def costs_context(run: Run) -> dict[str, Any]:
    """Everything that ``profile.html.j2`` names."""
    tables = cost_tables(run)
    return {
        "run": run,
        "title": f"What a map costs: {', '.join(tables.models) or 'nothing measured yet'}",
        "tables": tables,
        "network_alone": NETWORK_ALONE,
        "claims": list(claims(tables)),
        "side_by_side": list(_side_by_side(tables)),
        "peers": list(_peers(tables)),
        "charts": list(_charts(tables)),
        "steps": [(title, rows, _totals(rows)) for title, rows in tables.steps.items()],
        "gpu": list(_gpu(run, tables)),
        "forms": _forms(run, tables),
        "method_titles": METHOD_TITLES,
        "groups": GROUPS,
        **set_up(run),
        "record_count": len(run.all_records),
        "traced": traced(run.all_records, run.variant),
    }


def _forms(run: Run, tables: CostTables) -> list[FormRow]:
    """The goals of the run's own networks, and with them all that were measured beside it.

    None for networks that no goal is of: a page of a user's own network is about that one.
    """
    rows = list(form_rows(added_times(run.table, run.files.root)))
    if all(row.place.network not in tables.models for row in rows):
        return []
    return [row for row in rows if row.place.network in tables.models or row.added is not None]


def _side_by_side(
    tables: CostTables,
) -> Iterator[tuple[str, list[str], list[tuple[TimeRow, list[TimeRow | None]]]]]:
    """Tables of networks in the same setting: a title, the networks, and a row a method.

    A method of one network has no row: it stands in the tables of times.
    """
    alike: dict[tuple[Any, ...], list[TimeTable]] = {}
    for table in tables.times:
        setting = table.setting
        rest = replace(setting, model="")
        alike.setdefault((rest, table.batch), []).append(table)
    for (rest, batch), group in alike.items():
        if len(group) < 2:
            continue
        names = dict.fromkeys(row.name for table in group for row in table.rows)
        rows = []
        for name in names:
            cells = [table.row(name) for table in group]
            known = [cell for cell in cells if cell is not None]
            if len(known) > 1:
                rows.append((known[0], cells))
        title = f"{rest.title.removeprefix(', ')}, batch {batch}"
        yield title, [table.setting.model for table in group], rows


def _peers(tables: CostTables) -> Iterator[tuple[str, list[int], list[Peer]]]:
    """For each setting its title, its batches, and the methods that take gradients."""
    for setting in tables.settings:
        group = tables.of(setting)
        known = {row.name: row for table in group for row in table.rows}
        rows = [
            Peer(
                title=row.title,
                group=row.group,
                goal=_goal(setting, name),
                ratios=tuple(
                    None if (found := table.row(name)) is None else found.times_smoe
                    for table in group
                ),
            )
            for name, row in known.items()
            if row.group not in _NO_PEERS
        ]
        if rows:
            yield setting.title, [table.batch for table in group], rows


def _goal(setting: Setting, name: str) -> float | None:
    alike = setting.model == _RATIOS_OF and setting.precision == "float32"
    return RATIO_GOALS.get(name) if alike and not setting.compiled else None


def _charts(tables: CostTables) -> Iterator[tuple[str, list[Chart]]]:
    """For each setting its title and the charts of added time and of memory."""
    for setting in tables.settings:
        group = [
            table
            for table in tables.of(setting)
            if any(row.name != NETWORK_ALONE and row.runs_network for row in table.rows)
        ]
        if not group:
            continue
        title = setting.title
        charts = [chart("Added time", added_time_figure(group), f"Added time, {title}")]
        counted = [
            row
            for name in dict.fromkeys(row.name for table in group for row in table.rows)
            if (row := tables.counted(setting, name)) is not None and name != NETWORK_ALONE
        ]
        if counted and not setting.compiled:
            charts.append(chart("Memory", memory_figure(counted), f"Peak memory, {title}"))
        yield title, charts


def _gpu(
    run: Run, tables: CostTables
) -> Iterator[tuple[str, list[tuple[str, int]], list[tuple[str, str, list[Any]]]]]:
    """Tables of added time on CUDA, eager and compiled, with a row for every method of the run.

    Columns are the precisions and batches that were measured; compiled networks have a table if one
    was. Nothing without a GPU.
    """
    on_gpu = [table for table in tables.times if table.setting.on_gpu]
    places = dict.fromkeys(_measured_at(table.setting) for table in on_gpu)
    for place in places:
        found = {
            (*_form(table.setting), table.setting.precision, table.batch, row.name): row
            for table in on_gpu
            if _measured_at(table.setting) == place
            for row in table.rows
        }
        columns = sorted({(precision, batch) for *_, precision, batch, _ in found})
        for form, kind in _FORMS.items():
            rows = [
                (
                    method.title,
                    method.group,
                    [found.get((*form, *column, method.name)) for column in columns],
                )
                for method in run.methods.values()
            ]
            if any(cell is not None for *_, cells in rows for cell in cells):
                yield f"{', '.join(place)}, {kind}", columns, rows


def _measured_at(setting: Setting) -> tuple[str, str, str]:
    """The network, the images' size and the machine."""
    size = setting.grid or f"{setting.size}x{setting.size}"
    return setting.model, size, setting.hardware


def _form(setting: Setting) -> tuple[bool, bool]:
    return setting.compiled, setting.cuda_graphs


def _totals(rows: Any) -> dict[str, float]:
    names = [name for name in rows[0] if name not in ("channels", "height", "width")]
    return {name: sum(row[name] for row in rows) for name in names}
