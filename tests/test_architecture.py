"""The house: which package may know which, how long a module may be, no path of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each may import those before it.
PACKAGES = ("fastsal", "evaluation", "reports", "comparisons")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES = 400
# Of fastsal, what is imported inside functions alone.
LAZY = {
    "fastsal/cli/main.py": {"torchvision", "PIL", "numpy"},
    "fastsal/kernels/cpu.py": {"numba", "numpy"},
    "fastsal/kernels/cuda.py": {"triton"},
}
# What is needed by modules that only each other and functions import.
OPTIONAL = {
    f"fastsal/kernels/{name}.py": {"numba", "numpy", "llvmlite"}
    for name in ("jit", "numba_statistic", "numba_maps")
}
OPTIONAL["fastsal/kernels/triton_kernels.py"] = {"triton"}
OPTIONAL["fastsal/monitoring/lightning.py"] = {"lightning"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _imports(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """The full names of all modules that are imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its package"
            assert node.module is not None
            yield node.module, node
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node


def _inside_functions(tree: ast.AST) -> set[ast.AST]:
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    return {inner for function in functions for inner in ast.walk(function)}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    later = set(PACKAGES[PACKAGES.index(package) + 1 :])
    for name, node in _imports(ast.parse(path.read_text())):
        top = name.partition(".")[0]
        assert top not in later, f"{_name(path)}:{node.lineno} imports {name}"
        assert top != "tests", f"{_name(path)}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "fastsal").rglob("*.py")), ids=_name)
def test_fastsal_needs_torch_and_captum_alone(path):
    allowed = {"fastsal", "torch", "captum", *sys.stdlib_module_names}
    tree = ast.parse(path.read_text())
    lazy = LAZY.get(_name(path), set())
    inside = _inside_functions(tree)
    allowed |= OPTIONAL.get(_name(path), set())
    optional = {module.removesuffix(".py").replace("/", ".") for module in OPTIONAL}
    for name, node in _imports(tree):
        top = name.partition(".")[0]
        if (name in optional and _name(path) not in OPTIONAL) or (
            top in lazy and top not in allowed
        ):
            assert node in inside, f"{_name(path)}:{node.lineno} imports {name} for everybody"
        else:
            assert top in allowed, f"{_name(path)}:{node.lineno} imports {name}"


def test_importing_fastsal_loads_nothing_of_the_harness():
    # In a process of its own, since this one has loaded everything.
    listing = "import sys, fastsal; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"torch", "captum", "fastsal"} <= loaded
    assert not loaded & {"evaluation", "reports", "comparisons"}
    assert not loaded & {"torchvision", "pandas", "seaborn", "tensorstore", "scipy", "timm"}
    assert not loaded & {"numba", "triton"}


def test_evaluation_knows_no_method_by_name():
    from comparisons.methods import METHODS

    # Words that mean something else too are left out.
    names = {name for name in METHODS if "-" in name} | {"fastcam", "sobel"}
    for path in sorted((ROOT / "evaluation").rglob("*.py")):
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not names & strings, _name(path)


def test_the_packages_are_there():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_are_short(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_input_is_not_checked_with_assert(path):
    # `python -O` would take the checks out.
    found = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
    assert found == []


def _tracked() -> list[Path]:
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_place_of_one_machine():
    # Not after a letter, a slash or a plus: those are relative paths, addresses and base64.
    place = re.compile(r"(?<![\w/+.:-])/(?:work|tmp|home|root|Users|mnt)/[\w.-]")
    found = []
    for path in _tracked():
        try:
            text = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{_name(path)}: {hit.group()}" for hit in place.finditer(text)]
    assert found == []


def test_recorded_runs_are_data_in_few_files():
    files = [path for path in _tracked() if path.is_relative_to(ROOT / "reports" / "runs")]
    assert 0 < len(files) <= 60
    assert not [path.name for path in files if path.suffix == ".py"]
