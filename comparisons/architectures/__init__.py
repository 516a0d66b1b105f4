"""Evidence by architecture: maps of small networks of many families, on images of known truth."""
