"""Pictures of maps, masked images and LOVI on a run's page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports.figures.gallery import lovi_key, read_gallery
from reports.figures.samples import SHOWN
from reports.records.run import Run

__all__ = ["pictures_context", "sections_with_pictures"]

_MASKED_IMAGES = 2
_SECTIONS = ("maps", "masked", "lovi")
_NOTE = (
    '<p class="note">Pictures of the page that was made while the run still had its maps and '
    "images.</p>"
)


def pictures_context(run: Run) -> dict[str, Any]:
    """Everything that ``pictures.html.j2`` names.

    Args:
        run: the run. A section whose maps or images are gone is that of the ``report.html`` in the
            run's folder or archive, if it has pictures there.
    """
    gallery = read_gallery(run)
    found: dict[str, Any] = {"captions": [], "maps_rows": [], "masked": [], "lovi_rows": []}
    found |= {"lovi_key": [], "shown": ""}
    if gallery is not None:
        first = range(min(_MASKED_IMAGES, len(gallery.captions)))
        found |= {
            "captions": gallery.captions,
            "shown": SHOWN[gallery.axes],
            "maps_rows": gallery.side_by_side(),
            "masked": [part for image in first if (part := gallery.masked(image)).rows],
            "lovi_rows": gallery.lovi_rows(),
            "lovi_key": lovi_key(gallery.scales),
        }
    made = {"maps": found["maps_rows"], "masked": found["masked"], "lovi": found["lovi_rows"]}
    gone = {name for name, rows in made.items() if not rows}
    page = run.files.root / "report.html"
    earlier = sections_with_pictures(page) if gone else {}
    return {**found, "earlier": {name: earlier[name] for name in gone & earlier.keys()}}


def sections_with_pictures(page: Path) -> dict[str, Markup]:
    """The sections of a page that have pictures, by id, each with a note that it is an earlier one.

    Args:
        page: a page of this package; there need not be one.
    """
    if not page.exists():
        return {}
    html = page.read_text(encoding="utf-8")
    found = {}
    for name in _SECTIONS:
        match = re.search(rf'<section id="{name}">.*?</section>', html, re.DOTALL)
        # Figures are SVG; pictures alone are PNG or WebP.
        if match and re.search("data:image/(png|webp);", match[0]):
            section = (
                match[0] if _NOTE in match[0] else match[0].replace("</h2>", f"</h2>\n{_NOTE}", 1)
            )
            found[name] = Markup(section)
    return found
