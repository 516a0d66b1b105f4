"""Files of runs: results, artefacts, and archives of recorded runs."""
