"""Plans: every option that a result depends on."""
