"""Core ML: ML Program packages."""
