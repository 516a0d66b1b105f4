"""Records to figures, tables and one HTML page."""

from reports.page import build

__all__ = ["build"]
