"""Every command of the checkout: its help, and that nothing recorded is written by the way."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from comparisons.__main__ import app as comparisons
from reports.__main__ import app as reports
from reports.reproduction.__main__ import app as reproduction

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
PACKAGES = ("fastsal", "evaluation", "reports", "comparisons")


def _is_command(path):
    tests = [node.test for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    return any("__name__" in ast.unparse(test) for test in tests)


MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if _is_command(path)
]


def _recorded():
    """Return the time and size of every file that a command could take for its own."""
    files = [
        path
        for folder in ("docs", "reports", "comparisons", "fastsal", "evaluation")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_the_commands_are_found():
    assert {"fastsal", "comparisons", "reports", "reports.pictures"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_help_of_a_module_says_how_it_is_used_and_writes_nothing(module, tmp_path):
    if module == "reports.pictures":
        pytest.importorskip("skimage")
    before = _recorded()
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout.lower()
    # A folder that an option writes to by default is one that git ignores.
    for place in re.findall(r"\((\S+/\S+\.\w+)\)", done.stdout):
        assert place.startswith("runs/")
    assert list(tmp_path.iterdir()) == []
    assert _recorded() == before


@pytest.mark.parametrize("app", [comparisons, reports, reproduction])
def test_no_option_writes_to_a_recorded_folder_by_default(app):
    command = typer.main.get_command(app)
    commands = getattr(command, "commands", {"": command})
    for name, one in commands.items():
        said = CliRunner().invoke(app, [*([name] if name else []), "--help"])
        assert said.exit_code == 0, said.output
        for option in one.params:
            if isinstance(option.default, (str, Path)) and "/" in str(option.default):
                assert Path(option.default).parts[0] == "runs", f"{name} --{option.name}"


@pytest.mark.parametrize(
    ("app", "arguments", "page"),
    [
        (reports, [str(ROOT / "reports/runs/profile")], "runs/pages/profile/report.html"),
        (
            reproduction,
            [str(ROOT / "reports/runs/layers-cifar10")],
            "runs/reproduction/report.html",
        ),
    ],
)
def test_pages_of_archives_go_to_a_folder_of_their_own(app, arguments, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = _recorded()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == page
    assert "</html>" in (tmp_path / page).read_text()
    assert _recorded() == before
