"""The command line: a thin layer over `edgevlm.pipeline` and `edgevlm.api`. stdout is data, stderr is talk."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgevlm import __version__, interrupts
from edgevlm.errors import CheckFailed, EdgeVLMError, InputError

if TYPE_CHECKING:
    from edgevlm.bundle import Labels

BUNDLE = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of a table.")


class _Main(click.Group):
    """Prints an EdgeVLM error as a message and a hint, and ends with its exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgeVLMError as error:
            if os.environ.get("EDGEVLM_DEBUG"):
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


@main.command()
@click.argument("model", required=False, default="edgevlm-student")
@click.option("--target", required=True, help="coreml, executorch, tflite, or all.")
@click.option("--recipe", default="fp16", show_default=True, help="Name of a built-in recipe, or a YAML file.")
@click.option("--labels", type=BUNDLE, help="Label file, one per line: bakes a classify component.")
@click.option(
    "--template", "templates", multiple=True, help='Prompt around each label, e.g. "a photo of a {}"; may repeat.'
)
@click.option("--image-only", is_flag=True, help="Leave the text tower out; with --labels, only classify remains.")
@click.option("--out", type=BUNDLE, default="dist", show_default=True, help="Folder for the bundles.")
@click.option("--name", help="Name of the bundles; the model's own if left out.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--force", is_flag=True, help="Replace existing bundles.")
@click.option("--no-cache", is_flag=True, help="Convert again even if nothing has changed.")
@as_json
def convert(
    model: str,
    target: str,
    recipe: str,
    labels: Path | None,
    templates: tuple[str, ...],
    image_only: bool,
    out: Path,
    name: str | None,
    revision: str | None,
    force: bool,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Convert MODEL to bundles, and prove that they compute what it computes.

    MODEL is a built-in name, a folder in Hugging Face format, or a hub id; left out, it is the built-in student.

    \b
    Examples:
      edgevlm convert --target coreml
      edgevlm convert ./my-clip --target all --recipe fp32 --out dist
      edgevlm convert --target tflite --labels labels.txt --template "a photo of a {}" --image-only
    """
    from edgevlm import pipeline, registry, report
    from edgevlm.recipe import resolve

    known = registry.targets()
    if target != "all" and target not in known:
        raise InputError(f"no target {target!r}: expected all or one of {', '.join(known)}")
    request = pipeline.Request(
        model=model,
        revision=revision,
        targets=known if target == "all" else (target,),
        recipe=resolve(recipe),
        out=out,
        labels=_read_labels(labels, templates),
        image_only=image_only,
        name=name,
        force=force,
        use_cache=not no_cache,
    )
    with report.progress_bar() as progress:
        outcomes = pipeline.convert(request, progress)
    if as_json:
        report.print_json({"outcomes": [report.outcome_json(outcome) for outcome in outcomes]})
    else:
        report.outcomes(outcomes)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        sys.exit(max(error.exit_code for error in errors))
    if any(outcome.status != "passed" for outcome in outcomes):
        sys.exit(CheckFailed.exit_code)


@main.command()
@click.argument("bundle", type=BUNDLE)
@as_json
def verify(bundle: Path, as_json: bool) -> None:
    """Check BUNDLE's files against its manifest, and its answers against the float reference.

    \b
    Example:
      edgevlm verify dist/edgevlm-student-coreml-fp16.edgevlm
    """
    from edgevlm import pipeline, report, schema
    from edgevlm.bundle import Bundle

    opened = Bundle.open(bundle)
    with report.progress_bar() as progress:
        parity = pipeline.verify(opened, progress)
    if as_json:
        report.print_json({"bundle": str(bundle), "passed": parity.passed, "parity": schema.write(parity)})
    else:
        click.echo(f"{len(opened.manifest.files)} files are what the manifest says")
        title = f"{parity.samples} pictures, evidence: {parity.evidence}"
        report.table(title, ("component", "measure", ">value", ">limit", "result"), report.parity_rows(parity))
    if not parity.passed:
        sys.exit(CheckFailed.exit_code)


@main.command()
@click.argument("bundle", type=BUNDLE)
@as_json
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what is in BUNDLE: components, sizes, precision of each op kind, and who runs it.

    \b
    Example:
      edgevlm inspect dist/edgevlm-student-tflite-fp16.edgevlm
    """
    from edgevlm import registry, report, schema
    from edgevlm.bundle import Bundle

    opened = Bundle.open(bundle)
    with report.progress_bar() as progress:
        progress("reading the artefact", None)
        ops = registry.runtime(opened.manifest.target).inspect(opened)
    if as_json:
        report.print_json({"manifest": schema.write(opened.manifest), "ops": schema.write(ops)})
        return
    report.table(None, ("", ""), report.describe(opened))
    sizes = [(file, f"{record.size_bytes:,}") for file, record in opened.manifest.files.items()]
    report.table(None, ("file", ">bytes"), sizes)
    rows = [row for component, counts in ops.items() for row in report.op_rows(component, counts)]
    report.table(None, ("component", "op", ">count", "precision", "runs on"), rows)


@main.command()
@click.argument("bundle", type=BUNDLE)
@click.argument("images", nargs=-1, required=True)
@click.option("--labels", help='Labels, "a, b, c", or a file with one per line; left out, the baked ones.')
@click.option("--text", help="One text: ranks the pictures by how well it fits them.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels to show.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the backend.")
@as_json
def run(
    bundle: Path,
    images: tuple[str, ...],
    labels: str | None,
    text: str | None,
    top: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE about one or more pictures.

    \b
    Examples:
      edgevlm run B.edgevlm photo.png --labels "a red circle, a blue star, two green squares"
      edgevlm run B.edgevlm *.png --text "a glossy purple heart"
    """
    from edgevlm import api, report

    if labels is not None and text is not None:
        raise InputError("expected --labels or --text, got both")
    with report.progress_bar() as progress:
        progress("opening the bundle", None)
        with api.open(bundle, threads=threads) as model:
            progress(f"asking about {len(images)} picture{'s' * (len(images) > 1)}", None)
            if text is not None:
                scores = model.encode_image(images) @ model.encode_text([text]).T
            else:
                names = _split_labels(labels) if labels is not None else model.labels
                scores = model.classify(images, None if labels is None else names)
    if text is not None:
        _show_ranking(images, text, scores[:, 0].tolist(), as_json)
        return
    if as_json:
        answers = [
            {"image": image, "scores": dict(zip(names, map(float, row), strict=True))}
            for image, row in zip(images, scores, strict=True)
        ]
        report.print_json({"answers": answers})
        return
    for image, row in zip(images, scores, strict=True):
        report.bars(image, names, row, top)


@main.command()
@as_json
def targets(as_json: bool) -> None:
    """List the targets, and whether their packages are installed."""
    from importlib.util import find_spec

    from edgevlm import registry, report

    needs = {"coreml": "coremltools", "executorch": "executorch", "tflite": "litert_torch"}
    rows = [
        {
            "target": target,
            "summary": registry.SUMMARIES.get(target, "plug-in"),
            "converts": all(find_spec(package) for package in ("torch", "transformers", needs.get(target, "torch"))),
        }
        for target in registry.targets()
    ]
    if as_json:
        report.print_json({"targets": rows})
        return
    missing = [
        (str(r["target"]), str(r["summary"]), "yes" if r["converts"] else _extra(str(r["target"]))) for r in rows
    ]
    report.table(None, ("target", "what it is", "converts here"), missing)


@main.command()
@as_json
def models(as_json: bool) -> None:
    """List the built-in models and the families of checkpoints that can be converted."""
    from edgevlm import report
    from edgevlm.models import builtin, catalogue

    accuracy = builtin.figures()["accuracy"]
    if as_json:
        report.print_json({"builtin": {builtin.NAME: builtin.figures()}, "families": catalogue.FAMILIES})
        return
    said = (
        f"built in: 64x64 pictures of simple scenes; top-1 among 50 descriptions {accuracy['train']['top1']:.1%}, "
        f"on unseen combinations {accuracy['combinations']['top1']:.1%}, "
        f"in unseen styles {accuracy['styles']['top1']:.1%}"
    )
    rows = [(builtin.NAME, said), *((f"{family} checkpoints", what) for family, what in catalogue.FAMILIES.items())]
    report.table(None, ("model", "what it is"), rows)


@main.command()
@as_json
def recipes(as_json: bool) -> None:
    """List the built-in recipes, with their parity limits."""
    from edgevlm import report, schema
    from edgevlm.recipe import BUILTIN

    if as_json:
        report.print_json({"recipes": [schema.write(recipe) for recipe in BUILTIN.values()]})
        return
    rows = []
    for recipe in BUILTIN.values():
        limits = schema.write(recipe.parity).items()
        rows.append((recipe.name, recipe.summary, ", ".join(f"{k} {v:g}" for k, v in limits if v is not None)))
    report.table(None, ("recipe", "what it does", "parity limits"), rows)


def _show_ranking(images: Sequence[str], text: str, cosines: Sequence[float], as_json: bool) -> None:
    from edgevlm import report

    ranked = sorted(zip(images, cosines, strict=True), key=lambda pair: -pair[1])
    if as_json:
        report.print_json({"text": text, "images": [{"image": image, "cosine": cosine} for image, cosine in ranked]})
    else:
        report.table(text, ("picture", ">cosine"), [(image, f"{cosine:.4f}") for image, cosine in ranked])


def _read_labels(path: Path | None, templates: tuple[str, ...]) -> Labels | None:
    from edgevlm import labels

    if path is None:
        if templates:
            raise InputError("--template needs --labels: it is put around each label")
        return None
    return labels.read(path, templates)


def _split_labels(text: str) -> tuple[str, ...]:
    from edgevlm import labels

    if Path(text).is_file():
        return labels.read(Path(text)).names
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError(f"--labels: expected labels with commas between them, or a file, got {text!r}")
    return names


def _extra(target: str) -> str:
    return f"no: pip install 'edgevlm[{target}]'"


def program() -> None:
    """The installed command."""
    with interrupts.clean_exit():
        main(prog_name="edgevlm")
