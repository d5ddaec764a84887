"""The process around the work: signals, locks, progress, the terminal, pages, what is kept on disk."""
