"""The README's table of costs, made from recorded files."""
