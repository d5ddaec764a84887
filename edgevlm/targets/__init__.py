"""The seam to the backends."""
