"""Programs as torch graphs."""
