"""Pictures and words, as a device makes tensors of them.

Import its modules: a board that has no `tokenizers` reads pictures all the same.
"""
