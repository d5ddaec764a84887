"""Checkpoints in Hugging Face format, from a folder or the hub."""
