"""Changes between two runs: settings, verdicts and orders, in sentences."""
