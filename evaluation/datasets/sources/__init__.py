"""Where images come from: one module a layout, each source one decorated function."""
