"""Faults planted in artefacts of every target, and the op and layer that are blamed for them."""
