"""`python -m edgevlm`: the command line."""

from edgevlm.cli import main

main(prog_name="edgevlm")
