"""`edgevlm enrich`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevlm.commands.options import PATH, Number, Whole, as_json
from edgevlm.errors import CheckFailed, InputError, LabelError
from edgevlm.process.limits import LARGEST_SEED

if TYPE_CHECKING:
    from edgevlm.enrichment.enrichment import Enriched, Question

_SHOWN = 10


@click.command()
@click.argument("labels")
@click.option("--with", "source", required=True, metavar="FILE|URL|MODEL", help="Who describes the labels.")
@click.option("--out", type=PATH, help="The file; LABELS with .descriptions.json if left out.")
@click.option("--count", type=Whole(), help="Descriptions of each label; 1 if left out.")
@click.option("--attributes", is_flag=True, default=None, help="Ask for colour, shape and other attributes as well.")
@click.option("--prompt", help="The question, with {} for the label; that of Li et al. (2023) if left out.")
@click.option("--model", help="The model's name at the URL; may be left out where there is only one.")
@click.option("--key-env", help="Environment variable with the key for the URL; OPENAI_API_KEY if left out.")
@click.option("--temperature", type=Number(0, 2), help="0 is greedy. Left out: 0 for one description, else 0.8.")
@click.option("--seed", type=Whole(-LARGEST_SEED, LARGEST_SEED), help="Of sampling; 0 if left out.")
@click.option("--most-tokens", type=Whole(), help="Where an answer is cut; 512 if left out.")
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Write OUT even where FILE lacks labels: they are for you to fill in.",
)
@click.option("--force", is_flag=True, help="Describe labels anew that the file describes already.")
@as_json
def enrich(
    labels: str,
    source: str,
    out: Path | None,
    count: int | None,
    attributes: bool | None,
    prompt: str | None,
    model: str | None,
    key_env: str | None,
    temperature: float | None,
    seed: int | None,
    most_tokens: int | None,
    allow_missing: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Describe LABELS in sentences, for training and inference on things whose names a model does not know.

    LABELS is a file with a label per line (# begins a comment), or - for stdin. The descriptions come from a FILE
    (JSON, CSV or TSV), from an OpenAI-compatible URL, or from a language MODEL run here: a folder or hub id. They are
    written as JSON for you to review; what the file says already is kept, so that a run that was stopped goes on, and
    nothing is paid for twice.

    \b
    Examples:
      edgevlm enrich birds.txt --with birds.csv
      edgevlm enrich birds.txt --with http://localhost:8080/v1 --count 3 --attributes
      edgevlm enrich birds.txt --with https://api.openai.com/v1 --model gpt-4o-mini --out birds.json
      edgevlm enrich birds.txt --with Qwen/Qwen2.5-1.5B-Instruct
      edgevlm distill --data photos/ --descriptions birds.descriptions.json --out my-student
    """
    from edgevlm.enrichment import enrichment
    from edgevlm.process import terminal

    names, out = _read_labels(labels, out)
    asked = _question(
        count=count,
        attributes=attributes,
        prompt=prompt,
        model=model,
        key_env=key_env,
        temperature=temperature,
        seed=seed,
        most_tokens=most_tokens,
    )
    if allow_missing and not enrichment.from_a_file(source):
        raise InputError("--allow-missing is for a FILE: a language model is asked about every label")
    with terminal.progress_bar() as progress:
        done = enrichment.enrich(
            names, source, out, question=asked, allow_missing=allow_missing, force=force, progress=progress
        )
    if as_json:
        _print_json(done)
    else:
        _tell(done)
    if done.missing and not allow_missing:
        sys.exit(CheckFailed.exit_code)


def _read_labels(given: str, out: Path | None) -> tuple[tuple[str, ...], Path]:
    from edgevlm.inputs import labels

    if given == "-":
        if out is None:
            raise InputError("LABELS from stdin need --out", hint="--out labels.descriptions.json")
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LabelError(f"stdin: expected text in UTF-8 with a label per line: {error}") from error
        return labels.parse(text, where="stdin"), out
    names = labels.read(Path(given)).names
    out = out or Path(given).with_suffix(".descriptions.json")
    if out.resolve() == Path(given).resolve():
        raise InputError(f"--out {out} is the file of the labels")
    return names, out


def _question(**options: Any) -> Question | None:
    """The question with the options that were given; None if none was."""
    from edgevlm.enrichment.enrichment import Question

    given = {name: value for name, value in options.items() if value is not None}
    return Question(**given) if given else None


def _print_json(done: Enriched) -> None:
    from edgevlm import schema
    from edgevlm.process import terminal

    terminal.print_json(
        {
            "out": str(done.out),
            "labels": len(done.labels),
            "kept": len(done.kept),
            "asked": done.asked,
            "missing": done.missing,
            "failures": [{"label": label, "reason": reason} for label, reason in done.failures],
            "descriptions": {
                label: schema.write(done.descriptions.labels[label])
                for label in done.labels
                if label in done.descriptions.labels
            },
        }
    )


def _tell(done: Enriched) -> None:
    from edgevlm.process import terminal

    described = [label for label in done.labels if label not in done.missing]
    new = [label for label in described if label not in done.kept]
    rows = [(label, "\n".join(done.descriptions.labels[label].descriptions)) for label in (new or described)[:_SHOWN]]
    if rows:
        terminal.table(None, ("label", "description"), rows)
    more = f", of which {len(done.kept)} before" if done.kept else ""
    asked = f"; {done.asked} questions asked" if done.asked else ""
    terminal.say(f"{len(described)} of {len(done.labels)} labels described{more}{asked}: {done.out}")
    for label, reason in done.failures:
        terminal.say(f"{label}: {reason}", err=True)
    if done.missing:
        terminal.say(f"without a description: {', '.join(done.missing)}", err=True)
    else:
        terminal.say(f"next: read {done.out}, then give it to edgevlm distill or convert as --descriptions", err=True)
