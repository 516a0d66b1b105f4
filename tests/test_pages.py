"""README and the pages: short, without dead links, true to the code, and built by `make docs`."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastsal import load_images

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as both GitHub and Python-Markdown make them."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title).strip().lower() for title in titles)
    return {re.sub(r" +", "-", title) for title in plain}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.is_file():
            dead.append(link)
        elif target.suffix == ".md" and anchor:
            known = _anchors(target.read_text(encoding="utf-8"))
            dead += [] if anchor in known else [link]
    assert dead == []


def _messages() -> Iterator[str]:
    """Every string of the code, with an ellipsis for what it has put in."""
    for package in ("fastsal", "evaluation", "comparisons", "reports"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_troubleshooting_quotes_the_code():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = []
    for section in text.split("\n## ")[1:]:
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        if not rows[0].startswith("| message"):
            continue
        for row in rows[1:]:
            symptom = row.split(" | ")[0]
            if "(PyTorch's)" not in symptom:
                quoted += re.findall(r"`([^`]+ [^`]+)`", symptom)
    assert len(quoted) > 40
    known = list(_messages())
    wanted = {one: ".*".join(re.escape(part) for part in one.split("…")) for one in quoted}
    assert [o for o, rule in wanted.items() if not any(re.search(rule, m) for m in known)] == []


def _blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _forward_only(monkeypatch) -> None:
    """Published weights without a network to fetch them from: initial ones in their place."""
    from torchvision.models import ResNet50_Weights, resnet50

    state = resnet50().state_dict()
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda *_, **__: state)


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_five_lines_make_a_picture_of_a_photograph(page, tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    data = pytest.importorskip("skimage.data")
    (block,) = [block for block in _blocks(page) if "cat.jpg" in block]
    lines = [line for line in block.splitlines() if line.strip()]
    # Without the imports, and without the line for the second picture.
    assert len([line for line in lines if "import" not in line and "scales=" not in line]) <= 5
    image.fromarray(data.chelsea()).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)
    _forward_only(monkeypatch)
    exec(compile(block, page, "exec"), {})
    for name in ("cat_map.png", "cat_scales.png"):
        with image.open(tmp_path / name) as picture:
            assert picture.size == (224, 224)
            assert picture.mode == "RGB"


def test_getting_started_runs(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    block, _, of_attributions = _blocks("docs/getting-started.md")
    names: dict[str, object] = {}
    exec(compile(block, "getting-started.md", "exec"), names)
    assert names["which_scale"].shape == (2, 3, 224, 224)
    assert names["shown"].shape == names["explained"].shape == (2, 3, 224, 224)
    monkeypatch.chdir(tmp_path)
    batch = load_images(torch.rand(3, 224, 224), mean=(0.5,) * 3, std=(0.2,) * 3)
    exec(compile(of_attributions, "getting-started.md", "exec"), {**names, "batch": batch})
    with pytest.importorskip("PIL.Image").open(tmp_path / "cat_fastcam.png") as picture:
        assert picture.size == (224, 224)


def test_the_pages_are_built(tmp_path):
    pytest.importorskip("material")
    pytest.importorskip("mkdocs_jupyter")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 40
    # Doctests are code and formulas are drawn, neither by a script.
    reference = (tmp_path / "site" / "reference" / "statistics.html").read_text(encoding="utf-8")
    assert "<math" in reference
    assert not re.search(r"(<blockquote>\s*){3}|\$\$", reference)
    # Nothing is fetched from elsewhere when a page is read.
    fetched = re.compile(r"<(?:script|img|link rel=\"stylesheet\")[^>]*(?:src|href)=\"https?:")
    own = [page for page in pages if "repository" not in page.parts]
    assert [page.name for page in own if fetched.search(page.read_text(encoding="utf-8"))] == []
