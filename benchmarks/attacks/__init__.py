"""Attacks on what EdgeVLM reads and writes: each is refused with a clear error, or changes nothing.

documents   mutants of a small document
readers     every reader of a file that a user or a bundle can feed
bundles     mutants of whole bundles, with hashes that are right
kills       a kill at every step of a writing
threads     one session and several threads
workers     forked processes, which may die
outcomes    what became of an attack
page        the table of them all
"""
