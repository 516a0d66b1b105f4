"""Networks: their spatial scales, hooks, gradients, and their state kept."""
