"""Engines that run cells: processes of this machine, or Ray."""
