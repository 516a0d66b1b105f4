"""What every method costs beside the plain forward pass, and the peers' class activation maps."""
