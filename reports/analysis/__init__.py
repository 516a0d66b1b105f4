"""Statistics of a run's records, for tables and figures."""
