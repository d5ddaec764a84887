"""What the ML Program evaluator costs beside torch eager: time, memory, and the wait until a package is open."""
