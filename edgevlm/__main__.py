"""`python -m edgevlm`: the command line."""

from edgevlm.cli import program

program()
