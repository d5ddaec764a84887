"""The command line: a thin layer over the Python API. stdout is data, stderr is talk."""

from __future__ import annotations

from typing import Any

import click

from edgevlm import __version__
from edgevlm.commands.audit import audit
from edgevlm.commands.bench import bench, devices
from edgevlm.commands.bundles import inspect, run, verify
from edgevlm.commands.convert import convert
from edgevlm.commands.distill import distill
from edgevlm.commands.enrich import enrich
from edgevlm.commands.evaluate import evaluate
from edgevlm.commands.lists import models, recipes, targets
from edgevlm.commands.prune import prune
from edgevlm.commands.search import index, search
from edgevlm.commands.tune import tune
from edgevlm.errors import EdgeVLMError, debugging
from edgevlm.process import interrupts


class _Main(click.Group):
    """Prints an EdgeVLM error as a message and a hint, and ends with its exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgeVLMError as error:
            if debugging():
                raise
            click.echo(f"error: {error.message}", err=True)
            if error.hint:
                click.echo(f"  try: {error.hint}", err=True)
            context.exit(error.exit_code)


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
    convert, audit, tune, prune, verify, inspect, run, index, search, bench, distill, enrich, evaluate,
    targets, models, recipes, devices,
):  # fmt: skip
    main.add_command(command)


def program() -> None:
    """The installed command."""
    with interrupts.clean_exit():
        main(prog_name="edgevlm")
