"""LiteRT's own runtime behind the seam."""
