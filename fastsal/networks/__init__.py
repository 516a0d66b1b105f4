"""Networks: their spatial scales, and hooks and gradients that leave their state unchanged."""
