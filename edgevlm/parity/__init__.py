"""Is it still the same."""
