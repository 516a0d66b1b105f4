"""The house: which package may know which, how long a module may be, no path of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each may import those before it.
PACKAGES = ("fastsal", "evaluation", "reports", "comparisons")
# The rooms of each package in the order of imports, modules beside them included.
STAIRS = {
    "fastsal": (
        *("_version", "registry", "files", "optional", "arguments", "kernels", "images"),
        *("geometry", "keeping", "networks", "statistics", "maps", "cam", "attribution"),
        *("export", "monitoring", "cli"),
    ),
    "evaluation": (
        *(
            "hardware",
            "seeding",
            "storage",
            "datasets",
            "masking",
            "networks",
            "training",
            "layers",
        ),
        *("metrics", "scoring", "profiling"),
    ),
    "reports": (
        *("paper", "marks", "records", "formatting", "verdicts", "analysis", "measured"),
        *("retrained", "changes", "costs", "figures", "pages", "pictures", "settings"),
        *("reproduction", "families", "compatibility"),
    ),
    "comparisons": (
        *(
            "budget",
            "text_tables",
            "guided_backprop",
            "methods",
            "measures",
            "plans",
            "cells",
            "graph",
            "engines",
            "estimates",
        ),
        *("runs", "deployment", "architectures", "cli"),
    ),
}
MOST_MODULES = 12
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_LINES = 400
MOST_FILES_OF_A_RUN = 6
# Of fastsal, what is imported inside functions alone.
LAZY = {
    "fastsal/kernels/cpu.py": {"numba", "numpy"},
    "fastsal/kernels/cuda.py": {"triton"},
}
# What is needed by modules that only each other and functions import.
OPTIONAL = {
    f"fastsal/kernels/numba/{name}.py": {"numba", "numpy", "llvmlite"}
    for name in ("jit", "maps", "moments", "smoe")
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


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_import_climbs_the_stairs(path):
    package, *inside = path.relative_to(ROOT).with_suffix("").parts
    stairs = STAIRS[package]
    assert inside[0] in (*stairs, "__init__", "__main__"), f"{_name(path)} is in no room of STAIRS"
    if inside[0] in ("__init__", "__main__"):
        return
    for name, node in _imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if top == package and room in stairs:
            climbs = stairs.index(room) > stairs.index(inside[0])
            assert not climbs, f"{_name(path)}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_no_circle_is_hidden_from_the_interpreter(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            hidden = [name for name, _ in _imports(node) if name.partition(".")[0] in PACKAGES]
            assert hidden == [], f"{_name(path)}:{node.lineno} hides its imports of {hidden}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=_name)
def test_a_room_has_at_most_twelve_modules(folder):
    assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= MOST_MODULES


@pytest.mark.parametrize("init", [path for path in MODULES if path.stem == "__init__"], ids=_name)
def test_no_package_hands_on_what_bears_the_name_of_its_module(init):
    # `fastsal.lovi` was a module, and a function from the first import of it on.
    package = ".".join(init.parent.relative_to(ROOT).parts)
    given = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(init.read_text()))
        # A package may import its own modules, as modules.
        if isinstance(node, ast.ImportFrom) and node.module != package
        for alias in node.names
    }
    modules = {path.stem for path in init.parent.glob("*.py")}
    modules |= {path.parent.name for path in init.parent.glob("*/__init__.py")}
    assert not given & modules


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


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_module_s_first_line_names_what_is_in_it(path):
    first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    assert first, f"{_name(path)} has no docstring"
    assert not re.match(r"(What|How|Where|Whether|When)\b", first), first


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
    runs = ROOT / "reports" / "runs"
    files = [path for path in _tracked() if path.is_relative_to(runs)]
    # Cells are in an archive, not one file each.
    of_run = Counter(path.relative_to(runs).parts[0] for path in files)
    assert of_run
    assert max(of_run.values()) <= MOST_FILES_OF_A_RUN
    assert not [path.name for path in files if path.suffix == ".py"]
