"""Attacks on what EdgeVLM reads and writes: each is refused with a clear error, or changes nothing.

documents   mutants of a small document
readers     every reader of a file that a user or a bundle can feed
"""
