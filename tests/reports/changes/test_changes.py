"""What changed between two runs: planted accuracies whose verdicts stay, come, go and turn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from scipy.stats import kendalltau
from typer.testing import CliRunner

from reports import build
from reports.__main__ import app as page_app
from reports.changes.__main__ import app
from reports.changes.listing import MARKS, listed
from reports.changes.sentences import changes
from reports.changes.settings import set_up
from reports.records.reading import read_run

SEEDS = (0, 1, 2, 3)
METHODS = {
    "random": ("control", 0.0, 0.0),
    "smoe-linear": ("smoe", 0.0, 0.0),
    "lafam": ("activation", 0.0, 0.0),
    "gradcam": ("cam", 0.0, 0.0),
    "gradient": ("gradient", 0.0, 0.0),
}
# How much better than random each method is in KAR, and in ROAR.
THEN = {"smoe-linear": 0.2, "lafam": 0.0, "gradcam": 0.15, "gradient": 0.1}
NOW = {"smoe-linear": 0.3, "lafam": 0.2, "gradcam": 0.0, "gradient": -0.1}


def _accuracies(gains: dict[str, float]) -> Callable[[str, str, float, int], float]:
    def accuracy(method: str, mode: str, fraction: float, seed: int) -> float:
        # One random network serves as its own dual, as in a run.
        fraction = round(1 - fraction, 10) if (method, mode) == ("random", "kar") else fraction
        noise = np.random.default_rng([len(method), round(100 * fraction), seed, mode == "kar"])
        gain = gains.get(method, 0.0) * (1 if mode == "kar" else -1)
        return round(0.5 + gain + 0.002 * noise.normal() * (method != "random"), 6)

    return accuracy


@pytest.fixture(scope="module")
def pair(tmp_path_factory, write_run) -> tuple[Path, Path]:
    """A later and an earlier run, every verdict on whose methods but SMOE Scale's changes."""
    root, paths = tmp_path_factory.mktemp("changes"), []
    for name, gains in (("later", NOW), ("earlier", THEN)):
        path = root / name
        path.mkdir()
        options = {"methods": METHODS, "seeds": SEEDS, "test_images": 400}
        paths.append(write_run(path, **options, accuracy=_accuracies(gains)))
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def texts(pair) -> dict[str, str]:
    return _texts(pair)


def _texts(pair: tuple[Path, Path]) -> dict[str, str]:
    return {said.score: said.text for said in changes(*map(read_run, pair))}


def test_verdicts_that_stay_come_go_and_turn_round_are_told_apart(texts):
    for score in ("KAR", "ROAR", "SUM"):
        told = texts[score].partition("Against random: ")[2]
        assert "newly told above: lafam" in told
        assert "no longer told above: gradcam" in told
        assert "told below, and told above earlier: Gradient" in told
        assert told.endswith("the same for 1 of 4.")
        assert "Of 4 methods that both rank, SMOE Scale is first in both" in texts[score]
    assert texts["Verdicts"] == (
        "Of 12 verdicts that both runs have, 3 are the same, 3 are newly told, "
        "3 are no longer told, 3 are turned round."
    )
    assert texts["Set-up"].startswith("The same settings.")


def test_the_orders_agree_as_scipy_says(texts):
    tau = kendalltau(list(THEN.values()), [NOW[name] for name in THEN]).statistic
    assert f"Kendall's tau of the two orders {tau:.2f} (" in texts["SUM"].replace("−", "-")


def test_a_run_beside_itself_changed_in_nothing(pair):
    found = _texts((pair[1], pair[1]))
    assert found["Verdicts"].endswith("12 are the same; none is turned round.")
    assert "newly" not in " ".join(found.values())
    assert "1.00 (1.00 to 1.00)" in found["KAR"]


def test_new_and_missing_methods_and_seeds_are_named(tmp_path, write_run):
    for name, methods, seeds in (
        ("later", ("random", "smoe-linear", "lafam"), SEEDS),
        ("earlier", ("random", "smoe-linear", "gradient"), (0,)),
    ):
        (tmp_path / name).mkdir()
        chosen = {method: METHODS[method] for method in methods}
        options = {"methods": chosen, "seeds": seeds, "test_images": 400}
        write_run(tmp_path / name, **options, accuracy=_accuracies(NOW))
    found = _texts((tmp_path / "later", tmp_path / "earlier"))
    assert "New: lafam. Left out: Gradient." in found["Set-up"]
    assert "seeds 0, 1, 2, 3 (earlier 0)" in found["Set-up"]
    assert found["Verdicts"] == "No method was tested against the same reference in both."
    assert found["SUM"].startswith("Fewer than two methods are ranked by both.")
    tested = "not tested in the earlier run: SMOE Scale (told above), lafam (told above)."
    assert found["SUM"].endswith(tested)
    back = _texts((tmp_path / "earlier", tmp_path / "later"))
    assert back["SUM"].endswith("not tested in this run: SMOE Scale, lafam.")


def test_settings_that_differ_are_said_and_those_that_one_lacks_are_not(pair, tmp_path):
    own = tuple(Path(copytree(path, tmp_path / path.name)) for path in pair)
    path = own[0] / "plan.json"
    plan = json.loads(path.read_text())
    plan["plan"] |= {"train_images": 50_000, "fractions": [0.1, 0.5, 0.9]}
    plan["plan"]["recipe"] |= {"epochs": 9, "flip": False, "optimizer": "sgd"}
    path.write_text(json.dumps(plan))
    other = own[1] / "plan.json"
    earlier = json.loads(other.read_text())
    earlier["plan"]["train_images"] = None
    other.write_text(json.dumps(earlier))
    said = " ".join(set_up(*map(read_run, own)))
    assert said.startswith(
        "Changed: train images 50,000 (earlier not set); recipe's epochs 9 (earlier 6); "
        "recipe's flip no (earlier yes)."
    )


def test_the_page_says_what_changed_where_an_earlier_run_is_given(pair, tmp_path):
    page = build(pair[0], tmp_path / "page", since=pair[1]).read_text()
    assert "<h2>What changed since earlier</h2>" in page
    section = page.partition('<section id="since">')[2].partition("</section>")[0]
    shown = re.findall(r"<dt>(.*?)</dt>", section)
    assert shown == ["Set-up", "Verdicts", "KAR", "ROAR", "SUM"]
    assert 'href="#since"' in page
    alone = build(pair[0], tmp_path / "alone").read_text()
    assert 'id="since"' not in alone
    assert 'href="#since"' not in alone


def test_the_section_takes_nothing_from_the_page_of_an_archive(tmp_path):
    """Its pictures are those of its old page, whose maps are gone."""
    run = Path(__file__).parents[3] / "reports" / "runs" / "volumes"
    page = build(run, tmp_path, since=run).read_text()
    start, rest = page.split('<section id="since">')
    assert start + rest.partition("</section>\n")[2] == build(run, tmp_path).read_text().replace(
        'aria-label="Contents">', 'aria-label="Contents"><a href="#since">What changed</a> '
    )


def test_commands_write_the_list_and_the_page(pair, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"Before.\n{MARKS.begin}\n{MARKS.end}\nAfter.\n")
    result = CliRunner().invoke(app, [*map(str, pair), "--into", str(page)])
    assert result.exit_code == 0, result.output
    assert page.read_text() == f"Before.\n{MARKS.begin}\n{listed(*pair)}\n{MARKS.end}\nAfter.\n"
    shown = CliRunner().invoke(app, [*map(str, pair)])
    assert shown.output.strip() == listed(*pair)
    out = tmp_path / "out"
    options = [str(pair[0]), "--out", str(out), "--since", str(pair[1])]
    assert CliRunner().invoke(page_app, options).exit_code == 0
    assert "What changed since earlier" in (out / "report.html").read_text()


def test_runs_without_a_common_score_are_refused(pair, tmp_path, write_run):
    begun = tmp_path / "begun"
    begun.mkdir()
    write_run(begun, train=lambda *_: False)
    result = CliRunner().invoke(app, [str(pair[0]), str(begun)])
    assert result.exit_code == 2
    assert "no score that both runs have: one has KAR, ROAR, SUM, the earlier none" in result.output
    missing = CliRunner().invoke(page_app, [str(pair[0]), "--since", str(tmp_path / "nothing")])
    assert missing.exit_code == 2
    assert not (pair[0] / "report.html").exists()


@pytest.mark.heavy
def test_recorded_photographs_beside_themselves_keep_their_verdicts():
    runs = Path(__file__).parents[3] / "reports" / "runs"
    found = _texts((runs / "imagenette-lite0", runs / "imagenette-lite0"))
    assert list(found)[2:] == ["Insertion less deletion", "ROAD, least less most salient first"]
    assert found["Verdicts"].endswith("are the same; none is turned round.")
