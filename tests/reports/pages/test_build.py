"""The page itself: whole, offline, traceable, and honest about what is missing."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluation.storage.sealed import opened, sealed
from evaluation.storage.store import Store
from reports import build
from reports.__main__ import app

pytestmark = pytest.mark.heavy


class Page(HTMLParser):
    """Every element of a page in order: its tag, attributes and own text."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self.open: list[int] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        path = tuple(self.elements[i][1].get("id") or "" for i in self.open)
        self.elements.append((tag, dict(attrs), [], path))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.elements[self.open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for i in self.open:
            self.elements[i][2].append(data)

    def within(self, section: str, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, " ".join("".join(text).split()))
            for name, attributes, text, path in self.elements
            if name == tag and section in path
        ]


@pytest.fixture(scope="module")
def html(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(finished_run, tmp_path_factory.mktemp("page")).read_text()


def cells_of(attributes: dict[str, str | None]) -> list[str]:
    return (attributes["data-cells"] or "").split()


def test_every_accuracy_is_the_mean_of_the_records_in_the_cells_it_names(
    html: str, finished_run: Path
) -> None:
    store = Store(finished_run)
    page = Page(html)
    numbers = [link for link in page.within("accuracies", "a") if "data-cells" in link[0]]
    seen = set()
    for attributes, text in numbers:
        target = (attributes["href"] or "").removeprefix("#")
        found = re.fullmatch(r"record-accuracy-(.+)-(roar|kar)-(\d+)", target)
        if found is None:  # the unmasked reference, in the text
            assert target == "record-accuracy-none-unmasked"
            continue
        method, mode, percent = found[1], found[2], int(found[3])
        values = []
        for cell in cells_of(attributes):
            result = store.result(cell)
            assert result is not None
            values += [
                record.value
                for record in result.records
                if (record.method, record.mode) == (method, mode)
                and round(100 * (record.fraction or 0)) == percent
            ]
        assert len(values) == 2
        shown = sum(values) / 2
        if "of_levels" not in attributes and text == f"{100 * shown:.1f}":
            seen.add((method, mode, percent))
    assert len(seen) == 4 * 2 * 3


def test_every_number_in_the_tables_is_linked_and_every_link_arrives(html: str) -> None:
    page = Page(html)
    ids = [attributes["id"] for _, attributes, _, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _, _ in page.elements:
        href = attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in ids, href
    for section in ("sums", "certainty", "accuracies", "mask-only", "cost", "measures"):
        cells = [a for a, _ in page.within(section, "td") if "number" in (a.get("class") or "")]
        links = [a for a, _ in page.within(section, "a") if a.get("data-cells")]
        assert cells
        assert len(links) == len(cells) + (section == "accuracies")


def test_the_page_loads_nothing(html: str) -> None:
    page = Page(html)
    for tag, attributes, _, _ in page.elements:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "srcset", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
        if tag == "a":
            href = attributes.get("href") or ""
            beside = ("records.csv", "records.parquet", "https://arxiv.org/abs/1911.11293")
            assert href.startswith("#") or href in beside
    style = next("".join(text) for tag, _, text, _ in page.elements if tag == "style")
    assert "--ink" in style
    assert "url(" not in style
    assert "@import" not in style


def test_text_from_the_run_is_escaped(html: str) -> None:
    assert "a &lt;fast&gt; processor" in html
    assert "cross &lt;x&gt; &amp; y" in html
    assert "train/disk/&lt;b&gt;.png" in html
    assert "<fast>" not in html


def test_the_head_says_run_date_commit_and_paper(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run()
    plan = json.loads((run / "plan.json").read_text())
    plan["command"] += " --out somewhere/my<run>"
    (run / "plan.json").write_text(json.dumps(plan))
    for number, path in enumerate(sorted((run / "cells").glob("*-roar-*.json"))):
        cell, _ = opened(path.read_text())
        cell["environment"] |= {"date": f"2026-11-2{number % 3 + 1}", "commit": "c0ffee123456"}
        path.write_text(sealed(cell))
    html = build(run, tmp_path / "out").read_text()
    (head,) = [
        " ".join("".join(text).split())
        for _, attributes, text, _ in Page(html).elements
        if attributes.get("class") == "origin"
    ]
    assert head.startswith(
        "Run my<run>, measured on 2026-11-21 to 2026-11-23 with fastsal 0.1.0, commit c0ffee123456."
    )
    assert 'href="https://arxiv.org/abs/1911.11293"' in html
    assert "<title>ROAR and KAR of 2 methods: shapes, resnet9 (my&lt;run&gt;)</title>" in html
    # The first thing that a keyboard reaches.
    first = next(a for tag, a, _, _ in Page(html).elements if tag == "a")
    assert (first["href"], first["class"]) == ("#main", "skip")


def test_many_commits_are_counted_and_listed_under_the_pointer(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run()
    for number, path in enumerate(sorted((run / "cells").glob("*-roar-*.json"))[:3]):
        cell, _ = opened(path.read_text())
        cell["environment"] |= {"commit": f"c0ffee{number}"}
        path.write_text(sealed(cell))
    html = build(run, tmp_path / "out").read_text()
    assert '<span title="c0ffee0, c0ffee1, c0ffee2">3 commits</span>' in html


def test_names_are_text_in_figures_too(new_run: Callable[..., Path], tmp_path: Path) -> None:
    """Matplotlib would set what stands between two dollar signs as a formula."""
    run = new_run()
    plan = json.loads((run / "plan.json").read_text())
    plan["methods"]["gradient"]["title"] = "cost $x_{$ & <b>"
    (run / "plan.json").write_text(json.dumps(plan))
    html = build(run, tmp_path / "out").read_text()
    assert "cost $x_{$ &amp; &lt;b&gt;" in html
    assert "<b>" not in html


def answers_of(html: str) -> dict[str, str]:
    """The first screen: answers by question."""
    texts: dict[str, list[str]] = {"dt": [], "dd": []}
    for tag, _, text, _ in Page(html).elements:
        if tag in texts:
            texts[tag].append(" ".join("".join(text).split()))
    return dict(zip(texts["dt"], texts["dd"], strict=True))


def test_the_first_screen_answers_who_is_best_how_sure_and_against_what(html: str) -> None:
    (lead,) = [
        " ".join("".join(text).split())
        for _, attributes, text, _ in Page(html).elements
        if attributes.get("class") == "lead"
    ]
    # Student's interval of 0.75 and 0.76 is 0.005 * 12.706 = 0.0635.
    assert lead == (
        "2 methods and 2 controls on shapes (4 classes, 400 training and 20 test images of 8×8 "
        "pixels) with the network resnet9. Unmasked test accuracy is 75.5 % ± 6.4; chance is "
        "25.0 %."
    )
    said = answers_of(html)
    # SUM: smoe 3 * 0 + 1.5 * 0.42 - 0.45 * 0.58 = 0.369; gradient -0.021; centre 0.4275.
    assert re.sub(" ± [0-9.]+", "", said["Best method"]) == (
        "SMOE Scale, linear weights, by SUM 0.369: first of 2 methods over 2 common seeds. "
        "Above every method: the control Centre disk."
    )
    # Both seeds differ from the controls by the same amount, so that no test has a spread.
    assert re.match(
        "Not tested: every seed has the same difference, \N{MINUS SIGN}0\\.05[89]",
        said["Told from the centre disk?"],
    )
    assert re.sub(" ± [0-9.]+", "", said["SUM"]).startswith(
        "SMOE Scale, linear weights 0.369 (random 0.000, the centre disk 0.428)"
    )
    assert "score above" not in html


def test_controls_stand_apart_from_methods(html: str) -> None:
    tables = html.split('<table class="headline">')[1].split("</table>")[0]
    methods, controls = tables.split("which are no methods")
    assert re.findall(r'<tr class="(\w+)">', methods) == ["smoe", "gradient", "divider"]
    assert re.findall(r'<tr class="(\w+)">', controls) == ["control", "control"]


def test_ranks_are_over_the_seeds_that_all_have(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    """A third seed that one method alone has, and in which all is easy, moves no place."""

    def easy(method: str, mode: str, fraction: float, seed: int) -> float:
        del fraction
        if seed == 2:
            return 1.0 if mode == "kar" else 0.0
        return 0.7 if method == "smoe-linear" and mode == "kar" else 0.6

    def trained(method: str, mode: str, fraction: float, seed: int) -> bool:
        return seed < 2 or method == "gradient"

    run = new_run(seeds=(0, 1, 2), train=trained, accuracy=easy)
    html = build(run, tmp_path / "out").read_text()
    # Three fractions of 0.7 less three of 0.6; the gradient's own mean would be 1.
    assert answers_of(html)["Best method"].startswith("SMOE Scale, linear weights, by SUM 0.300")
    rows = html.split('<table class="headline">')[1].split("</table>")[0]
    assert re.search(r"Gradient.*?>0\.000<", rows, re.S)
    assert ">1.000<" not in rows
    assert ">1.000<" in html


def test_an_accuracy_whose_interval_holds_chance_is_warned_of(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run(seeds=(0,))
    path = run / "cells" / "base0.json"
    cell, _ = opened(path.read_text())
    records = [{**record, "value": 0.4} for record in cell["records"]]
    path.write_text(sealed({**cell, "records": records}))
    # Wilson's interval of 8 of 20 by hand is 21.9 to 61.3 %.
    with pytest.warns(UserWarning, match=r"40\.0 %, is not told from chance.*21\.9 to 61\.3"):
        html = build(run, tmp_path / "out").read_text()
    assert "is not told from chance" in html
    assert answers_of(html)["Told from random?"].startswith("Not told: one seed")


def test_masks_state_their_exact_share(html: str) -> None:
    headings = [text for _, text in Page(html).within("masked", "th")]
    # 10 % of 64 pixels is 6 of them, 9.38 %.
    assert "ROAR 10 % 6 of 64 9.38 %" in headings
    assert "KAR 90 % 58 of 64 90.62 %" in headings


def test_missing_numbers_read_not_measured(partial_run: Path, tmp_path: Path) -> None:
    page = Page(build(partial_run, tmp_path).read_text())
    rows = {
        (attributes.get("id") or ""): " ".join("".join(text).split())
        for tag, attributes, text, _ in page.elements
        if tag == "tr"
    }
    assert rows["row-smoe-linear"].count("n.m.") == 3
    assert rows["row-gradient"].count("n.m.") == 0
    assert rows["row-gradient"].count("±") == 5
    missing = [text for _, text in page.within("sums", "td") if text == "n.m."]
    assert len(missing) == 2  # KAR and SUM of SMOE
    (line,) = [
        text for _, text in page.within("sums", "p") if text.startswith("n.m.: not measured")
    ]
    assert line == "n.m.: not measured, 2 numbers. The run's command measures them."
    command = " ".join(text for _, text in page.within("set-up", "code"))
    assert "python -m comparisons run --data shapes" in command
    assert any("21 of 24 numbers measured" in text for _, text in page.within("accuracies", "p"))


@pytest.mark.parametrize("kept", ["plan", "cells", "no pictures"])
def test_whatever_is_there_makes_a_page(
    kept: str, new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run()
    if kept == "plan":
        for folder in ("cells", "gallery", "data"):
            for file in (run / folder).rglob("*"):
                if file.is_file():
                    file.unlink()
    if kept == "cells":
        (run / "plan.json").unlink()
    if kept == "no pictures":
        for file in [*(run / "gallery").iterdir(), *(run / "data" / "d0").glob("*.npy")]:
            file.unlink()
    text = build(run, tmp_path / "out").read_text()
    assert text.rstrip().endswith("</html>")
    assert "not measured" in text.lower()
    if kept == "cells":
        assert "smoe-linear" in text
        assert "no plan.json" in text


def test_csv_and_parquet_hold_the_records(finished_run: Path, tmp_path: Path) -> None:
    build(finished_run, tmp_path)
    expected = sorted(
        (
            {**asdict(record), "parameters": dict(record.parameters)}
            for result in Store(finished_run).results()
            for record in result.records
        ),
        key=str,
    )
    for frame in (
        pd.read_csv(tmp_path / "records.csv", dtype={"seed": "Int64"}),
        pd.read_parquet(tmp_path / "records.parquet"),
    ):
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        for row in rows:
            row["parameters"] = json.loads(row["parameters"])
        assert sorted(rows, key=str) == expected


def test_a_page_is_replaced_whole_or_not_at_all(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(finished_run, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(before) == {"report.html", "records.csv", "records.parquet"}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("evaluation.storage.writing.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build(finished_run, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_the_same_run_gives_the_same_bytes(finished_run: Path, tmp_path: Path) -> None:
    first, second = (build(finished_run, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_a_training_that_started_elsewhere_is_named_loudly(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run()
    path = run / "cells" / "centre-kar-0.5-1.json"
    cell, _ = opened(path.read_text())
    path.write_text(sealed({**cell, "hashes": {**cell["hashes"], "init": "another"}}))
    with pytest.warns(UserWarning, match=r"seed 1 do not share their initial weights.*centre-kar"):
        page = Page(build(run, tmp_path / "out").read_text())
    alerts = [text for _, attributes, text, _ in page.elements if attributes.get("role") == "alert"]
    assert len(alerts) == 1
    assert "centre-kar-0.5-1" in "".join(alerts[0])
    assert any("differ or absent" in text for _, text in page.within("set-up", "td"))


def test_a_network_that_learned_nothing_is_said_to(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run()
    for seed in (0, 1):
        path = run / "cells" / f"base{seed}.json"
        cell, _ = opened(path.read_text())
        records = [{**record, "value": 0.2} for record in cell["records"]]
        path.write_text(sealed({**cell, "records": records}))
    with pytest.warns(UserWarning, match=r"20\.0 %, is not above chance, 25\.0 %.*Train longer"):
        text = build(run, tmp_path / "out").read_text()
    assert "has learned nothing" in text
    assert "The same as levels" not in text


def test_the_command_writes_the_page_and_refuses_what_is_no_run(
    finished_run: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, [str(finished_run), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert Path(done.output.replace("\n", "")) == tmp_path / "out" / "report.html"
    refused = CliRunner().invoke(app, [str(tmp_path)])
    assert refused.exit_code == 2
    assert "is no run: expected plan.json" in refused.output.replace("\n", " ")


def test_pictures_outlive_the_maps_that_they_show(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    pictured = r'(?:alt="[^"]*"|data:image/png;base64,[^"]*)'
    sections = {
        name: re.search(f'<section id="{name}">.*?</section>', build(run).read_text(), re.DOTALL)
        for name in ("maps", "masked", "lovi")
    }
    shutil.rmtree(run / "gallery")
    # The page elsewhere, the run's own, and the run's own made of itself.
    for out in (tmp_path / "out", run, run):
        assert CliRunner().invoke(app, [str(run), "--out", str(out)]).exit_code == 0
        html = (out / "report.html").read_text()
        for name, before in sections.items():
            after = re.search(f'<section id="{name}">.*?</section>', html, re.DOTALL)
            assert before is not None
            assert after is not None
            assert re.findall(pictured, after[0]) == re.findall(pictured, before[0])
            assert after[0].count("Pictures of the page that was made while the run still had") == 1
    (run / "report.html").unlink()
    assert "data:image/png" not in build(run).read_text()
