"""The format: what ships."""
