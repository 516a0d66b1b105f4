"""Image sets: sources by name, staging to memory maps."""
