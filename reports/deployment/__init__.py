"""What the map costs where a network is deployed: exported, on large images, on video."""
