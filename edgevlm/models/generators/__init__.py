"""Models that talk, made ready for export: a picture's tower, the embedding of tokens, and a decoder that keeps state."""
