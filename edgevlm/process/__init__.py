"""The process around the work: signals, locks, progress, the terminal, what is kept on disk."""
