"""Maps of photographs anyone may use, by a network that installs from the package registry."""
