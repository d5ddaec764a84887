"""ExecuTorch: one `.pte`."""
