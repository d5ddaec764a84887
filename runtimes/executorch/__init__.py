"""ExecuTorch's own runtime behind the seam."""
