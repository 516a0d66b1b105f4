"""MkDocs hooks: README, changelog and reports of the repository as pages and files of the site.

Links between files are relative, so that they work where the repository is browsed. A file outside
`docs/` that a page links to is copied into the site, and the link changed to the copy.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the site that are made from files outside `docs/`.
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "results/growth-tables.md": "reports/runs/growth/README.md",
}
# The folder of the site that holds copies of other files of the repository.
COPIES = "repository"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")


def linked(text: str, source: str) -> list[str]:
    """Return the files of the repository, outside `docs/`, that a file links to."""
    targets = {normpath(join(dirname(source), link)) for link in LINK.findall(text)}
    outside = targets - set(PAGES.values())
    return sorted(t for t in outside if not t.startswith("docs/") and (ROOT / t).is_file())


def rewritten(text: str, source: str, page: str) -> str:
    """Return a file's text with the links of the page that it becomes."""
    pages = {name: place for place, name in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        target = normpath(join(dirname(source), found[1]))
        if target in pages:
            place = pages[target]
        elif target.startswith("docs/"):
            place = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            place = f"{COPIES}/{target}"
        else:
            return found[1]
        return relpath(place, dirname(page) or ".")

    return LINK.sub(link, text)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from other files, and copies of what pages link to."""
    texts = {
        f"docs/{file.src_uri}": (ROOT / "docs" / file.src_uri).read_text(encoding="utf-8")
        for file in files.documentation_pages()
        if file.src_uri.endswith(".md")
    }
    for page, source in PAGES.items():
        texts[source] = (ROOT / source).read_text(encoding="utf-8")
        content = rewritten(texts[source], source, page)
        files.append(File.generated(config, page, content=content))
    for source in sorted({one for name, text in texts.items() for one in linked(text, name)}):
        uri = f"{COPIES}/{source}"
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page of `docs/` with links to the copies in the site."""
    uri = page.file.src_uri
    return markdown if uri in PAGES else rewritten(markdown, f"docs/{uri}", uri)
