"""Image sets: sources by name, staged to memory maps."""
