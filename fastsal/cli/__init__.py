"""The command `fastsal`."""
