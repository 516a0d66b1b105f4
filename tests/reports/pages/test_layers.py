"""The page on a run inside the network, from a run directory with planted accuracies."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.storage.records import CellResult, Record
from evaluation.storage.store import Store
from reports import build
from reports.analysis.layer_tables import RANDOM, measured, printed
from reports.figures.layers import accuracy_figure
from reports.paper import DATASETS, ERRATA, TITLES, table_1
from reports.records.reading import read_run

pytestmark = pytest.mark.heavy

LAYERS = ("stage1", "stage2 <b>")
# KAR and ROAR accuracy at the two layers, at seed 0.
PLANTED = {
    "random": ((0.40, 0.50), (0.60, 0.70)),
    "smoe_scale": ((0.50, 0.65), (0.50, 0.45)),
    "mean": ((0.45, 0.50), (0.55, 0.60)),
    "gamma_scale": ((0.30, 0.40), (0.65, 0.75)),
}
STEP = {"random": 0.0, "smoe_scale": 0.02, "mean": 0.0, "gamma_scale": 0.0}


def make_layers_run(root: Path, seeds=(0, 1), leave_out=(), **plan) -> Path:
    store = Store(root)
    common = {"parameters": {}, "dataset": "shapes", "model": "resnet9", "unit": "1"}
    common |= {"metric": "accuracy", "version": "0.1.0"}

    def save(cell: str, kind: str, spec: dict, **record) -> None:
        hashes = {key: f"{key}{spec.get('layer')}{spec['seed']}" for key in ("init", "order")}
        hashes["before"] = f"before{spec['seed']}"
        entry = Record(cell=cell, seed=spec["seed"], **common, **record)
        store.save_result(CellResult(cell, kind, spec, (entry,), hashes=hashes))

    for seed in seeds:
        place = {"method": "none", "mode": "unmasked", "fraction": None, "layer": None}
        save(f"base{seed}", "base", {"seed": seed}, value=0.8, **place)
        for method, by_mode in PLANTED.items():
            for mode, accuracies in zip(("kar", "roar"), by_mode, strict=True):
                for layer, value in zip(LAYERS, accuracies, strict=True):
                    if (method, mode, layer) in leave_out:
                        continue
                    spec = {"seed": seed, "layer": layer}
                    place = {"method": method, "mode": mode, "layer": layer}
                    place["fraction"] = {"kar": 0.025, "roar": 0.1}[mode]
                    place["value"] = value + STEP[method] * seed
                    save(f"{method}{mode}{layer[:6]}{seed}", "tune", spec, **place)
    methods = {
        name: {"title": TITLES.get(name, name), "group": "control" if name == RANDOM else "smoe"}
        for name in PLANTED
    }
    options = {"locations": {"kar": 0.025, "roar": 0.1}}
    content = {"kind": "layers", "layers": LAYERS, "methods": methods, "plan": options, **plan}
    (root / "plan.json").write_text(json.dumps(content))
    return root


class Page(HTMLParser):
    """The text of every table row by its first cell, and all ids and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if found.get("href", "").startswith("#"):
            self.links.append(found["href"][1:])
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        if tag in ("td", "th", "tr"):
            self.open = False

    def handle_data(self, data):
        if self.open and self.rows and self.rows[-1]:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    def row(self, title: str, number: int = 0) -> list[str]:
        return [row for row in self.rows if row and row[0] == title][number]


def _page(root: Path) -> Page:
    return Page(build(root).read_text())


def test_scores_are_equations_8_and_9_of_each_seed(tmp_path):
    run = read_run(make_layers_run(tmp_path))
    table = measured(run.records, run.layers, ["smoe_scale", "mean", "gamma_scale"])
    # (z - rho) + (kappa - z), by hand: 0.1 + 0.25 + 0.1 + 0.15; at seed 1 KAR and ROAR rise by
    # 0.02 at each layer, which takes away what it gives.
    difference = table.difference("smoe_scale")
    assert difference.mean == pytest.approx(0.6)
    assert difference.half_width == pytest.approx(0, abs=1e-9)
    assert table.difference("mean").mean == pytest.approx(0.05 + 0.05 + 0.1)
    assert table.difference("smoe_scale", ["stage1"]).mean == pytest.approx(0.2)
    assert table.ranked == ("smoe_scale", "mean", "gamma_scale")
    # 0.5 ln(0.6 / 0.5) + 0.45 ln(0.7 / 0.45) + 0.4 ln(0.5 / 0.4) + 0.5 ln(0.65 / 0.5)
    one_seed = measured(run.records[run.records["seed"] == 0], run.layers, ["smoe_scale"])
    natural = one_seed.information("smoe_scale", None)
    assert natural.mean == pytest.approx(0.0911608 + 0.1988250 + 0.0892574 + 0.1311821, abs=1e-6)
    assert natural.interval is None
    assert one_seed.information("smoe_scale", 2).mean == pytest.approx(natural.mean / 0.6931472)


def test_the_page_has_our_numbers_beside_the_paper_s(tmp_path):
    page = _page(make_layers_run(tmp_path))
    assert page.row("SMOE Scale")[1:] == [
        "0.600 ± 0.000",
        page.row("SMOE Scale")[2],
        "1.70",
        "0.90",
        "1.61",
        "1.13",
    ]
    assert page.row("gamma_scale")[3] == "not in the paper's table"
    # Table 4: the first row of it, then KAR and ROAR at both layers, bold where best.
    random = next(row for row in page.rows if row and row[0] == "Random" and len(row) == 5)
    assert [cell.split()[0] for cell in random[1:]] == ["40.0", "50.0", "60.0", "70.0"]
    smoe = next(row for row in page.rows if row and row[0] == "SMOE Scale" and len(row) == 5)
    assert [cell.split()[0] for cell in smoe[1:]] == ["51.0", "66.0", "51.0", "46.0"]
    assert "80.0 %" in build(tmp_path).read_text()
    weights = page.row("shapes, resnet9")
    assert [cell.split()[0] for cell in weights[1:]] == ["0.200", "0.400"]


def test_every_number_leads_to_its_record_and_a_layer_s_name_is_text(tmp_path):
    page = _page(make_layers_run(tmp_path))
    assert not [link for link in page.links if link not in page.ids]
    assert len([link for link in page.links if link.startswith("record-accuracy")]) >= 16
    assert "b" not in page.tags


def test_what_is_not_measured_says_so(tmp_path):
    page = _page(make_layers_run(tmp_path, leave_out={("mean", "kar", "stage1")}))
    assert page.row("Mean")[1:3] == ["n.m.", "n.m."]
    # The statistic that is whole is not touched by it.
    assert page.row("SMOE Scale")[1] == "0.600 ± 0.000"
    (tmp_path / "empty").mkdir()
    text = build(make_layers_run(tmp_path / "empty", seeds=())).read_text()
    assert "Nothing is measured yet." in text
    assert "no fine-tuning has finished" in text


def test_one_seed_has_no_interval_and_says_so(tmp_path):
    root = make_layers_run(tmp_path, seeds=(0,))
    assert "no number has an interval" in build(root).read_text()
    assert _page(root).row("SMOE Scale")[1] == "0.600"


def test_fine_tunings_that_differ_in_their_start_are_a_warning(tmp_path):
    root = make_layers_run(tmp_path)
    assert "must not be" not in build(root).read_text()
    store = Store(root)
    (cell,) = [r for r in store.results() if r.id == "meankarstage11"]
    fields = {**cell.__dict__, "hashes": {**cell.hashes, "before": "changed"}}
    store.cell(cell.id).unlink()
    store.save_result(CellResult(**fields))
    with pytest.warns(UserWarning, match="fine-tunings after stage1 of seed 1 do not share"):
        text = build(root).read_text()
    assert "fine-tunings after stage1 of seed 1 do not share" in text
    assert "differ or absent" in text


def test_the_paper_s_tables_are_whole_and_marked_where_they_disagree(tmp_path):
    page = _page(make_layers_run(tmp_path))
    for name, line in table_1().iterrows():
        # The last table of five columns is the paper's Table 1.
        row = [found for found in page.rows if len(found) == 5 and found[0] == name][-1]
        assert float(row[1].split()[0]) == line["difference_imagenet"]
        assert ("Table 4 gives" in row[1]) == (name in ERRATA)
        assert [float(cell) for cell in row[2:]] == line.tolist()[1:]
    for dataset in DATASETS:
        paper = printed(dataset)
        assert paper.difference("Random") is None
        for name in paper.statistics:
            score = paper.difference(name).mean
            given = table_1().loc[name, f"difference_{dataset.lower()}"]
            wrong = dataset == "ImageNet" and name in ERRATA
            assert (abs(score - given) > 0.0051) == wrong
    assert re.search(r"<summary>Table 4, COWC</summary>", build(tmp_path).read_text())


def test_lines_are_named_at_their_ends_in_order_and_apart():
    table = printed("ImageNet")
    titles = {name: name for name in (*table.statistics, RANDOM)}
    figure = accuracy_figure(table, titles)
    figure.draw_without_rendering()
    for axes, mode in zip(figure.axes, ("kar", "roar"), strict=True):
        texts = sorted(
            (text for text in axes.texts if text.get_text()),
            key=lambda text: text.get_position()[1],
        )
        ends = {name: table.accuracy(name, mode, "l5").mean for name in titles}
        assert [text.get_text() for text in texts] == sorted(ends, key=ends.get)
        boxes = [text.get_window_extent() for text in texts]
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        looks = {
            (line.get_color(), line.get_marker(), str(line.get_linestyle()))
            for line in axes.lines
            if line.get_clip_on() and line.get_marker() not in ("", "None")
        }
        assert len(looks) == len(titles)
