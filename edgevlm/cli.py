"""The command line: a thin layer over the Python API. stdout is data, stderr is talk."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from edgevlm import __version__
from edgevlm.commands.audit import audit
from edgevlm.commands.bench import bench, devices
from edgevlm.commands.bundles import export, inspect, run, verify
from edgevlm.commands.convert import convert
from edgevlm.commands.distill import distill
from edgevlm.commands.enrich import enrich
from edgevlm.commands.evaluate import evaluate
from edgevlm.commands.lists import models, recipes, targets
from edgevlm.commands.prune import prune
from edgevlm.commands.search import index, search
from edgevlm.commands.talk import describe
from edgevlm.commands.tune import tune
from edgevlm.errors import EdgeVLMError, OutputError, debugging
from edgevlm.process import interrupts, terminal
from edgevlm.process.garbage import collect_seldom

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)


class _Main(click.Group):
    """Prints an error as a message and, where it is EdgeVLM's own, a hint; ends with its exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgeVLMError as error:
            if debugging():
                raise
            terminal.say(f"error: {error.message}", err=True)
            if error.hint:
                terminal.say(f"  try: {error.hint}", err=True)
            context.exit(error.exit_code)
        except OSError as error:
            gone = error.filename is None and not _has_current_folder()
            if debugging() or (error.filename is None and not gone):  # click knows about a pipe that nobody reads
                raise
            place = "the current folder" if gone else os.fsdecode(error.filename)
            terminal.say(f"error: {place}: {error.strerror}", err=True)
            context.exit(EdgeVLMError.exit_code)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgevlm")
def main() -> None:
    """Vision-language models on phones and small boards: convert, prove, embed.

    \b
    Examples:
      edgevlm convert --target coreml
      edgevlm run dist/edgevlm-student-coreml-fp16.edgevlm photo.png --labels "a red circle, a blue star"
      edgevlm convert openai/clip-vit-base-patch32 --target all --recipe fp32
    """


for command in (
    convert, audit, tune, prune, verify, inspect, export, run, describe, index, search, bench, distill, enrich,
    evaluate, targets, models, recipes, devices,
):  # fmt: skip
    main.add_command(command)


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _open_closed_streams() -> None:
    """Streams that a shell has closed, `>&-`, become the null device: the next file opened would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, open(opened, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def program() -> None:
    """The installed command."""
    _open_closed_streams()
    collect_seldom()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what ASCII or Latin-1 cannot hold is written out
            stream.reconfigure(errors="backslashreplace")
    try:
        with interrupts.clean_exit():
            main(prog_name="edgevlm")
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more, at its end
        if error.errno == errno.EPIPE:  # whoever read, such as `head`, has enough
            sys.exit(1)
        with suppress(OSError):  # it may be stderr that is full
            terminal.say(f"error: the output cannot be written: {error.strerror}", err=True)
        sys.exit(OutputError.exit_code)
