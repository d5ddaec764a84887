"""Models that talk, made ready for export: a picture's tower, a table of tokens, and a decoder that keeps state."""
