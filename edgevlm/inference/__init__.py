"""An open bundle, which `edgevlm.open` gives, and small codes of what it answers.

Import its modules: `codes` takes numpy alone.
"""
