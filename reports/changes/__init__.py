"""What changed between two reports, in sentences."""
