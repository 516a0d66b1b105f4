"""MkDocs hooks: README, changelog and reports of the repository as pages and files of the site.

Links in these pages are relative, so that they work where the repository is browsed. Where a link
leaves `docs/`, the file that it points to is copied into the site, and the link with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Pages of the site, made from files of the repository's root.
PAGES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
COPIES = "repository"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)")


def target_of(link: str, source: str) -> str:
    """Return the path that a link of a file of the repository points to, from the root."""
    return normpath(f"{dirname(source)}/{link}")


def in_site(target: str, page: str) -> str | None:
    """Return the link from a page to a file of the repository, or None if there is no such file."""
    if target.startswith("docs/"):
        place = target.removeprefix("docs/")
    else:
        made = {name: page for page, name in PAGES.items()}
        place = made.get(target, f"{COPIES}/{target}")
        if not (ROOT / target).is_file():
            return None
    return relpath(place, dirname(page) or ".")


def rewritten(text: str, source: str, page: str) -> str:
    """Return a file's text with the links of the page that it becomes."""

    def link(found: re.Match[str]) -> str:
        return in_site(target_of(found[1], source), page) or found[1]

    return LINK.sub(link, text)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root, and what any page links to outside `docs/`."""
    for page, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=rewritten(text, name, page)))
    for file in list(files.documentation_pages()):
        source = PAGES.get(file.src_uri, f"docs/{file.src_uri}")
        if not source.endswith(".md"):
            continue
        for link in LINK.findall((ROOT / source).read_text(encoding="utf-8")):
            target = target_of(link, source)
            uri = f"{COPIES}/{target}"
            outside = not target.startswith(("docs/", "..")) and target not in PAGES.values()
            if outside and (ROOT / target).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links of a page of `docs/` to the copies in the site."""
    uri = page.file.src_uri
    return markdown if uri in PAGES else rewritten(markdown, f"docs/{uri}", uri)
