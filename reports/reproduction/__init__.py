"""The paper's claims beside our figures, as a page: ``python -m reports.reproduction``."""
