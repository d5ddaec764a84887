"""The process around the work: what it writes for people to read."""
