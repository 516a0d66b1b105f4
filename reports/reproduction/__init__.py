"""The paper's claims beside our figures: `python -m reports.reproduction` writes the page here."""
