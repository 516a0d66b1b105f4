"""Image sources: one module a layout, one decorated function a source."""
