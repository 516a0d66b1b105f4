"""Captum's calling conventions: inputs, targets and batches."""
