"""`edgevlm verify`, `inspect`, `export` and `run`: what one does with a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgevlm.commands.options import PATH, Number, Whole, as_json, refuse_given, refuse_unwritable, threads
from edgevlm.commands.talk import OF_ANSWERS, answer, answer_options
from edgevlm.errors import BundleError, CheckFailed, InputError

if TYPE_CHECKING:
    from edgevlm.blame.blame import Blame
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.bundle.spec import F32
    from edgevlm.inference.embedder import BundleModel
    from edgevlm.inference.embeddings import Scores
    from edgevlm.inputs.texts import Tokenizer
    from edgevlm.process.progress import Progress
    from edgevlm.targets.inspection import PackageReader

_OF_LABELS = ("scores", "threshold", "top")
"""Parameters of `run`."""


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--digest", metavar="SHA256", help="What BUNDLE's digest must be: that of the one that was published.")
@click.option("--blame", is_flag=True, help="Find the first op that does not compute what the float model computed.")
@click.option("--runner", is_flag=True, help="Ask the runner that apps have as well, of a model that talks.")
@click.option("--model", help="Where the float model is; left out, what the manifest calls it.")
@click.option("--out", type=PATH, help="The page that --blame draws; beside BUNDLE, .blame.html, if left out.")
@as_json
def verify(
    bundle: Path, digest: str | None, blame: bool, runner: bool, model: str | None, out: Path | None, as_json: bool
) -> None:
    """Check BUNDLE's files against its manifest, its answers against the float reference, its integers against NNCF's.

    All of that is held against what BUNDLE says itself. Its digest, which is printed, covers every byte of every file:
    --digest compares it with the one that was published.

    With --blame, every op of the artefact is compared with the ops of the model that it was made of, on the sample that
    it answers worst: Core ML's as the ML Program evaluator computes them, TFLite's as the interpreter's own kernels do,
    ExecuTorch's as XNNPACK and the portable kernels give them out. Of a model that talks, at each of its lengths.

    With --runner, what apps open such a bundle with, ExecuTorch's MultimodalRunner or LiteRT-LM, is asked the same as
    the file: each of its tokens must be what the file's own logits make the most probable.

    \b
    Examples:
      edgevlm verify dist/edgevlm-student-coreml-fp16.edgevlm
      edgevlm verify dist/edgevlm-student-coreml-fp16.edgevlm --digest sha256:2c26b46b...
      edgevlm verify dist/my-llava-executorch-int8.edgevlm --runner
      edgevlm verify dist/my-clip-tflite-int8.failed-parity.edgevlm --blame --model ./my-clip
    """
    from edgevlm import schema
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.commands import showing
    from edgevlm.conversion import pipeline
    from edgevlm.inference.embeddings import CENTRED_COSINE
    from edgevlm.process import terminal
    from edgevlm.targets import registry

    if registry.package_reader(bundle) is not None:
        raise InputError(
            f"{bundle}: expected a bundle, got a package, which has no answers to be held against",
            hint="edgevlm inspect shows it; edgevlm.runtimes.mlprogram.MLProgram runs one of Core ML",
        )
    page = out or bundle.resolve().with_suffix(".blame.html")
    if blame:
        refuse_unwritable(page)
    opened = Bundle.open(bundle)
    showing.notes(opened)
    if digest is not None and opened.digest.removeprefix("sha256:") != digest.lower().removeprefix("sha256:"):
        raise BundleError(
            f"{bundle}: expected the digest {digest}, got {opened.digest}",
            hint="this is not the bundle that was published, or not all of it",
        )
    with terminal.progress_bar() as progress:
        parity = pipeline.verify(opened, progress, runner=runner)
        progress("reading the weights back", None)
        weights = pipeline.verify_weights(opened)
        blames = _blame(opened, model, page, progress) if blame else None
    passed = parity.passed and not any(proof.lost for proof in weights)
    if as_json:
        found = {"parity": schema.write(parity), "weights": schema.write(weights)}
        if blames is not None:
            found["blame"] = schema.write(blames)
        terminal.print_json({"bundle": str(bundle), "digest": opened.digest, "passed": passed} | found)
    else:
        terminal.say(f"{len(opened.manifest.files)} files are what the manifest says; digest {opened.digest}")
        asked = "pictures" if opened.manifest.dialogue is None else "dialogues"
        title = f"{parity.samples} {asked}, evidence: {parity.evidence}"
        terminal.table(title, ("component", "measure", ">value", ">limit", "result"), showing.parity_rows(parity))
        if any(check.measure == "centred_cosine" for check in parity.checks):
            terminal.say(CENTRED_COSINE)
        for proof in weights:
            terminal.say(f"{proof.component}: {proof.identical} of {proof.decided} integer weights are as NNCF decided")
            if proof.lost:
                terminal.say(f"{proof.component}: FAILED: not as decided: {', '.join(proof.lost)}", err=True)
    if blames is not None and not as_json:
        from edgevlm.blame.page import verdict

        for each in blames:
            terminal.say(verdict(each))
        terminal.say(f"picture: {page}")
    if not passed:
        if not blame:
            terminal.say("the first op that differs: the same command with --blame", err=True)
        sys.exit(CheckFailed.exit_code)


def _blame(opened: Bundle, model: str | None, out: Path, progress: Progress) -> tuple[Blame, ...]:
    from edgevlm.blame.bundles import blame_bundle, source_model
    from edgevlm.blame.page import write_page

    progress("loading the model", None)
    loaded = source_model(opened, model)
    found = blame_bundle(opened, loaded, progress)
    write_page(found, f"{opened.path.name} beside {loaded.source.name}", out)
    return found


@click.command()
@click.argument("bundle", type=PATH)
@as_json
def inspect(bundle: Path, as_json: bool) -> None:
    """Show what is in BUNDLE: components, sizes, precision of each op kind, and who runs it.

    BUNDLE may also be a Core ML package, whoever wrote it: its functions, inputs and outputs, ops and sizes, and the
    oldest system that it needs. For Core ML there is advice besides, by who can act on it and with the source of each
    claim: what the Neural Engine does not run or computes badly, and a package that asks for a newer system than it
    needs. For a model that talks there is what an app should know of the runner that it has: ExecuTorch's
    MultimodalRunner, or LiteRT-LM.

    \b
    Examples:
      edgevlm inspect dist/edgevlm-student-tflite-fp16.edgevlm
      edgevlm inspect Detector.mlpackage
    """
    from edgevlm.targets import registry

    reader = registry.package_reader(bundle)
    if reader is None:
        _inspect_bundle(bundle, as_json)
    else:
        _inspect_package(reader, bundle, as_json)


def _inspect_bundle(bundle: Path, as_json: bool) -> None:
    from edgevlm import schema
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.commands import showing
    from edgevlm.process import terminal
    from edgevlm.targets import registry
    from edgevlm.targets.inspection import Adviser

    opened = Bundle.open(bundle)
    showing.notes(opened)
    with terminal.progress_bar() as progress:
        progress("reading the artefact", None)
        runtime = registry.runtime_of(opened)
        ops = runtime.inspect(opened)
        advice = runtime.advice(opened) if isinstance(runtime, Adviser) else {}
    if as_json:
        found = {"manifest": opened.manifest, "ops": ops, "advice": advice}
        terminal.print_json(schema.write(found))
        return
    terminal.table(None, ("", ""), showing.describe(opened))
    sizes = [(file, f"{record.size_bytes:,}") for file, record in opened.manifest.files.items()]
    terminal.table(None, ("file", ">bytes"), sizes)
    rows = [row for component, counts in ops.items() for row in showing.op_rows(component, counts)]
    terminal.table(None, ("component", "op", ">count", "precision", "weights", "runs on"), rows)
    showing.advice_lists(advice, converter="for EdgeVLM's converter alone: nothing to do for who embeds the bundle")


def _inspect_package(reader: PackageReader, path: Path, as_json: bool) -> None:
    from edgevlm import schema
    from edgevlm.commands import showing
    from edgevlm.process import terminal

    with terminal.progress_bar() as progress:
        progress("reading the package", None)
        package = reader.read_package(path)
    if as_json:
        terminal.print_json({"package": str(path)} | schema.write(package))
        return
    terminal.table(None, ("", ""), showing.describe_package(package))
    terminal.table(None, ("file", ">bytes"), [(file, f"{size:,}") for file, size in package.files.items()])
    terminal.table(None, ("function", "", "name", "type", "shape"), showing.value_rows(package))
    rows = [row[:-1] for function in package.functions for row in showing.op_rows(function.name, function.ops)]
    terminal.table(None, ("function", "op", ">count", "precision", "weights"), rows)
    showing.advice_lists({path.name: package.advice}, converter="for who converted it")


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--for-app", "folder", type=PATH, required=True, help="Folder that the bundle is copied into.")
@click.option("--force", is_flag=True, help="Replace a bundle that lies there.")
@as_json
def export(bundle: Path, folder: Path, force: bool, as_json: bool) -> None:
    """Copy of BUNDLE what an app ships: all but the pictures and answers that it was verified with.

    The copy has a digest of its own, which is printed.

    \b
    Example:
      edgevlm export dist/edgevlm-student-tflite-fp16.edgevlm --for-app app/src/main/assets
    """
    from edgevlm.bundle.bundle import Bundle
    from edgevlm.bundle.export import export_for_app
    from edgevlm.process import terminal

    opened = Bundle.open(bundle)
    made = export_for_app(opened, folder, force=force)
    left_out = sorted(set(opened.manifest.files) - set(made.manifest.files))
    if as_json:
        found = {"bundle": str(made.path), "digest": made.digest, "size_bytes": made.size_bytes, "left_out": left_out}
        terminal.print_json(found)
        return
    terminal.say(f"{made.path}: {made.size_bytes / 1e6:.2f} MB in {len(made.manifest.files)} files")
    terminal.say(f"digest {made.digest}")
    saved = (opened.size_bytes - made.size_bytes) / 1e6
    terminal.say(f"left out: {len(left_out)} files of {saved:.2f} MB, which edgevlm verify needs", err=True)


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("images", nargs=-1, required=True, metavar="PICTURE|FOLDER...")
@click.option(
    "--labels", help='Labels, "a, b, c", or a file with one per line (# begins a comment); left out, the baked ones.'
)
@click.option("--descriptions", type=PATH, help="Sentences about the labels, from edgevlm enrich.")
@click.option(
    "--scores",
    type=click.Choice(["softmax", "sigmoid", "cosine"]),
    help="softmax: shares; sigmoid: each label by itself; cosine. Left out, what the model was trained to say.",
)
@click.option(
    "--threshold", type=Number(-1, 1), metavar="COSINE", help="Labels below it do not fit; see edgevlm evaluate."
)
@click.option("--text", help="One text: ranks the pictures by how well it fits them.")
@click.option(
    "--ask", help="A question about each picture, to a model that talks; with --labels, how probable each answer is."
)
@answer_options
@click.option("--top", type=Whole(), default=5, show_default=True, help="How many labels to show.")
@threads
@as_json
def run(
    bundle: Path,
    images: tuple[str, ...],
    labels: str | None,
    descriptions: Path | None,
    scores: Scores | None,
    threshold: float | None,
    text: str | None,
    ask: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    seed: int,
    top: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Ask BUNDLE about one or more pictures, or all below a folder.

    Pictures that cannot be read are named at the end, and the exit code is 2; the others are answered.

    \b
    Examples:
      edgevlm run B.edgevlm photo.png --labels "a red circle, a blue star, two green squares"
      edgevlm run B.edgevlm photo.png --labels birds.txt --descriptions birds.descriptions.json
      edgevlm run B.edgevlm photo.png --labels birds.txt --scores cosine --threshold 0.24
      edgevlm run B.edgevlm *.png --text "a glossy purple heart"
      edgevlm run B.edgevlm photos/ --labels birds.txt --json
      edgevlm run my-smolvlm-tflite-fp16.edgevlm photo.png --ask "How many triangles are there?"
      edgevlm run my-smolvlm-tflite-fp16.edgevlm photo.png --ask "Is there a circle?" --labels "Yes, No"
    """
    from edgevlm import api
    from edgevlm.commands import pictures, showing
    from edgevlm.inputs.labels import read_or_split
    from edgevlm.process import terminal

    if ask is not None and (text is not None or descriptions is not None):
        raise InputError("expected --ask, alone or with --labels, or --text, got both")
    if ask is not None and labels is None:
        refuse_given(_OF_LABELS, "labels, and --ask without --labels asks for words")
        answer(
            bundle, images, ask, system=system, max_tokens=max_tokens, temperature=temperature, seed=seed,
            threads=threads, as_json=as_json,
        )  # fmt: skip
        return
    if labels is not None and text is not None:
        raise InputError("expected --labels or --text, got both")
    if descriptions is not None and labels is None:
        raise InputError("--descriptions needs --labels: it is about them")
    refuse_given(OF_ANSWERS, "an answer in words, which --ask without --labels asks a model for that talks")
    if text is not None:
        refuse_given(_OF_LABELS, "labels, and --text ranks pictures by their cosine")
    with terminal.progress_bar() as progress:
        given = pictures.read_given(images)
        progress("opening the bundle", None)
        with api.open(bundle, threads=threads) as model:
            names = () if text is not None else read_or_split(labels) if labels is not None else model.labels
            if text is not None:
                asked = _ranker(model, text)
            else:
                texts = _texts(names, labels, descriptions, model.tokenizer)
                asked = _classifier(model, texts, scores, threshold, ask)
            answers = pictures.ask_each(given.paths, asked, progress)
    showing.notes(model.bundle)
    if text is not None and model.tokenizer is not None:
        showing.cut_text(text, model.tokenizer)
    told = pictures.told(given, answers.unreadable)
    if text is not None:
        ranked = sorted(((image, float(score[0])) for image, score in answers.found), key=lambda pair: -pair[1])
        showing.ranking(text, ranked, {"text": text} | told if as_json else None)
    elif as_json:
        found = [
            {"image": image, "scores": dict(zip(names, map(float, row), strict=True))} for image, row in answers.found
        ]
        terminal.print_json({"answers": found} | told)
    else:
        for image, row in answers.found:
            showing.bars(image, names, row, top, share=scores != "cosine")
    pictures.refuse_unreadable(answers.unreadable, len(given.paths))


def _ranker(model: BundleModel, text: str) -> Callable[[str], F32]:
    """Of a picture the cosine with the text, [1]."""
    embedding = model.encode_text([text])[0]
    return lambda picture: model.encode_image([picture]) @ embedding


def _classifier(
    model: BundleModel,
    texts: Sequence[str | Sequence[str]] | None,
    kind: Scores | None,
    threshold: float | None,
    question: str | None,
) -> Callable[[str], F32]:
    """Of a picture the labels' scores, [L]; -infinity for those whose cosine is below the threshold."""
    if threshold is None:
        return model.classifier(texts, scores=kind, text=question)

    import numpy as np

    from edgevlm.inference.embeddings import score

    cosines_of, manifest = model.classifier(texts, scores="cosine"), model.bundle.manifest

    def ask(picture: str) -> F32:
        cosines = cosines_of(picture)
        found = score(cosines, manifest.embedding.logit_scale, manifest.embedding.logit_bias, kind)
        return np.where(cosines < threshold, np.float32(-np.inf), found)

    return ask


def _texts(
    names: tuple[str, ...], labels: str | None, descriptions: Path | None, tokenizer: Tokenizer | None
) -> Sequence[str | Sequence[str]] | None:
    """What is encoded for each label; None where the baked ones are asked about."""
    from edgevlm.enrichment.descriptions import Descriptions, label_texts
    from edgevlm.inputs.labels import PLAIN, check

    if labels is None:
        return None
    if descriptions is None:
        return names
    texts = label_texts(names, (PLAIN,), Descriptions.read(descriptions))
    if tokenizer is not None:
        check(names, texts, tokenizer)
    return texts
