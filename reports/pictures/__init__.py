"""Pictures for the documentation: maps of free photographs, by a network from the package index."""
