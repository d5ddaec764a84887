"""Damaged and hostile ML Programs for the evaluator: thousands of mutants of sound packages, and what becomes of them.

gallery, models   the sound programs, built with coremltools
corpus            the packages of them that are mutated
mutants           a package that is being changed
damage, edits, bombs, rewrites   the mutators
trials            one mutant: opened, run, judged
sandbox           which files that opened
workers           trials in processes of limited time and memory
summaries         what came of them all
"""
