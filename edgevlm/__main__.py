"""`edgevlm` and `python -m edgevlm`: the command line."""

import signal


def program() -> None:
    """The installed command."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python imports, Ctrl-C would end in a traceback
    from edgevlm.cli import program

    program()


if __name__ == "__main__":
    program()
