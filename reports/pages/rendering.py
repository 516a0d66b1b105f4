"""Jinja templates rendered to HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import formatting

__all__ = ["rendered"]


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package as HTML; it can call every function of `reports.formatting`.

    Args:
        template: name of the file.
        context: values by name; a name that the template misses is an error.
    """
    templates = Environment(
        loader=PackageLoader("reports.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update({name: getattr(formatting, name) for name in formatting.__all__})
    return templates.get_template(template).render(context)
