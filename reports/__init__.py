"""Pages of recorded runs: records to tables, tables to figures, figures to one HTML page."""

from reports.pages.build import build

__all__ = ["build"]
