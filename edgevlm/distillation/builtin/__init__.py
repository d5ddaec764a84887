"""The programs that made the built-in models."""
