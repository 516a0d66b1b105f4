"""Cost of deployed maps: exported files, tiles, video, watching."""
