"""Records to figures, tables and one HTML page."""

from reports.pages.build import build

__all__ = ["build"]
