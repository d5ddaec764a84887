"""The evaluator on coremltools' own tests: what share passes, and why each of the others does not."""
