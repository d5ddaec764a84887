"""What the command line shows: tables and bars for people, JSON with a schema version for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.manifest import Manifest, ParityReport
from edgevlm.inputs.folders import printable
from edgevlm.process.terminal import Cell, print_json, say, table, visible

if TYPE_CHECKING:
    from edgevlm.bundle.dialogue import Dialogue
    from edgevlm.conversion.forecast import Forecast
    from edgevlm.conversion.pipeline import Outcome
    from edgevlm.inputs.texts import Tokenizer
    from edgevlm.targets.converter import OpRange
    from edgevlm.targets.inspection import Advice, OpCount, Package, PackageValue

BAR_WIDTH = 24


def notes(bundle: Bundle) -> None:
    """What a user should know about a bundle, on stderr, so that data on stdout stays what it is."""
    for note in bundle.notes:
        say(f"note: {note}", err=True)


def cut_text(text: str, tokenizer: Tokenizer) -> None:
    """Says of a text that is longer than the model's context that its end does not count."""
    count, length = tokenizer.token_count(text), tokenizer.spec.context_length
    if count > length:
        say(f"note: the text has {count} tokens, the model's context {length}: its end does not count", err=True)


def outcomes(found: Sequence[Outcome]) -> None:
    """What became of each target: a table, then where the bundles are, or why there are none."""
    colours = {"passed": "green", "failed parity": "red", "failed": "red"}
    rows = []
    for outcome in found:
        parity = outcome.bundle.manifest.parity if outcome.bundle else None
        rows.append(
            (
                outcome.target,
                Cell(outcome.status + " (cached)" * outcome.cached, colours[outcome.status]),
                f"{outcome.bundle.artefact_bytes / 1e6:.2f} MB" if outcome.bundle else "",
                _parity_summary(parity) if parity else "",
                f"{outcome.seconds:.1f}",
            )
        )
    table(None, ("target", "result", ">for the app", "parity with float32", ">seconds"), rows)
    for note in dict.fromkeys(note for outcome in found for note in outcome.notes):
        say(f"note: {note}", err=True)
    for outcome in found:
        if outcome.bundle:
            say(f"{outcome.target}: {outcome.bundle.path}")
            say(f"{outcome.target}: digest {outcome.bundle.digest}")
        if outcome.at_risk:
            nearest = min(outcome.at_risk, key=lambda op: op.headroom)
            say(
                f"{outcome.target}: {len(outcome.at_risk)} ops come close to float16's limits, such as {nearest.place} "
                f"({nearest.kind}, up to {nearest.peak:.3g}); edgevlm audit shows them",
                err=True,
            )
        if outcome.bundle and outcome.status == "failed parity":
            say(f"  try: {_way_out(outcome.bundle)}", err=True)
        if outcome.error:
            say(f"{outcome.target}: {outcome.error.message}", err=True)
            if outcome.error.hint:
                say(f"  try: {outcome.error.hint}", err=True)


def forecasts(found: Sequence[Forecast], memories: Mapping[str, int]) -> None:
    """What to expect of each target and recipe: a table, and how the figures came about.

    Args:
        found: Each.
        memories: Bytes of memory of devices that they are held against, by name.
    """
    rows: list[tuple[str | Cell, ...]] = []
    for each in found:
        footprint = each.footprint
        if footprint is None:
            said = "; ".join(problem.what for problem in each.refused)
            outcome = Cell(f"refused: {said}", "red") if said else "not known"
            rows.append((each.target, each.recipe, "", "", "", *[""] * len(memories), outcome))
            continue
        shares = [footprint.peak_memory_bytes / size for size in memories.values()]
        rows.append(
            (
                each.target,
                each.recipe,
                _megabytes(footprint.size_bytes),
                _megabytes(footprint.peak_memory_bytes),
                _megabytes(footprint.mapped_bytes),
                *(Cell(f"{share:.0%}", "red") if share > 1 else f"{share:.0%}" for share in shares),
                _platforms(footprint.requires),
            )
        )
    of_devices = (f">of {name}" for name in memories)
    table(None, ("target", "recipe", ">for the app", ">peak memory", ">of it mapped", *of_devices, "needs"), rows)
    context, state = found[0].context_length, found[0].state_bytes
    asked = "runs the component that needs most" if context is None else "answers"
    say("Estimated; nothing was converted. Size: each weight in the type that it would be stored in. Peak memory:")
    say(f"what the engine adds while it opens the artefact and {asked}, namely")
    for target, basis in {each.target: each.footprint.basis for each in found if each.footprint}.items():
        say(f"  {target}: {basis}")
    if memories:
        say("A device's memory is all that it has: its system and other apps take of it too.")
    if context is not None:
        say(f"A dialogue's state is {_megabytes(state)} in float32, of a context of {context:,} positions: --context")


def forecast_json(forecast: Forecast, memories: Mapping[str, int]) -> dict[str, Any]:
    """The same in plain values; what is not known is null."""
    footprint = forecast.footprint
    return {
        "target": forecast.target,
        "recipe": forecast.recipe,
        "evidence": "estimated",
        "size_bytes": footprint.size_bytes if footprint else None,
        "peak_memory_bytes": footprint.peak_memory_bytes if footprint else None,
        "anonymous_bytes": footprint.anonymous_bytes if footprint else None,
        "mapped_bytes": footprint.mapped_bytes if footprint else None,
        "memory_basis": footprint.basis if footprint else None,
        "requires": dict(footprint.requires) if footprint else None,
        "refused": [schema.write(problem) for problem in forecast.refused],
        "of_devices": {
            name: footprint.peak_memory_bytes / size if footprint else None for name, size in memories.items()
        },
        "context_length": forecast.context_length,
        "state_bytes": forecast.state_bytes,
    }


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"


def _way_out(bundle: Bundle) -> str:
    """What to do about answers that a recipe has moved too far."""
    recipe, record = bundle.manifest.recipe, bundle.manifest.calibration
    if recipe.weights.sparsity:
        return (
            f"edgevlm distill --student STUDENT --data DATA --recipe recovery --compress {recipe.name} --out OUT\n"
            "       trains a distilled student around its pruning"
        )
    if record is not None and record.texts is None and "encode_text" in bundle.components:
        return "--calibration-texts FILE, texts like those to come, a line each; or edgevlm tune"
    if recipe.quantises or recipe.weights.dtype != "float":
        return "edgevlm tune, which finds the smallest recipe that keeps your task, and which layers to leave in float"
    return "--recipe fp32, or edgevlm audit, which says where float16 does not reach"


def _download(manifest: Manifest) -> str:
    if manifest.compressed_size_bytes is None:
        return ""
    return f", about {manifest.compressed_size_bytes / 1e6:.2f} MB of a compressed download"


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The same, with every check."""
    bundle = outcome.bundle
    return {
        "target": outcome.target,
        "status": outcome.status,
        "cached": outcome.cached,
        "seconds": round(outcome.seconds, 3),
        "parity_seconds": round(outcome.parity_seconds, 3),
        "bundle": str(bundle.path) if bundle else None,
        "size_bytes": bundle.size_bytes if bundle else None,
        "artefact_bytes": bundle.artefact_bytes if bundle else None,
        "parity": schema.write(bundle.manifest.parity) if bundle else None,
        "notes": list(outcome.notes),
        "at_risk": None if outcome.at_risk is None else [range_json(op) for op in outcome.at_risk],
        "error": {"message": outcome.error.message, "hint": outcome.error.hint} if outcome.error else None,
    }


def range_json(op: OpRange) -> dict[str, Any]:
    """What an op's values span, with the headroom."""
    return {**schema.write(op), "headroom": op.headroom}


def parity_rows(parity: ParityReport) -> list[tuple[str | Cell, ...]]:
    """Component, measure, value, limit and verdict of each check."""
    return [
        (
            check.component,
            check.measure,
            f"{check.value:.7g}" if check.measure == "min_cosine" else f"{check.value:.3g}",
            "" if check.limit is None else f"{check.limit:g}",
            Cell("passed", "green") if check.passed else Cell("failed", "red"),
        )
        for check in parity.checks
    ]


def op_rows(component: str, ops: Sequence[OpCount]) -> list[tuple[str, ...]]:
    """One row an op kind, the most frequent first."""
    ordered = sorted(ops, key=lambda op: (op.runs_on, -op.count, op.kind))
    return [(component, op.kind, str(op.count), op.dtype, op.weights, op.runs_on) for op in ordered]


def advice_lists(advice: Mapping[str, Sequence[Advice]], *, converter: str) -> None:
    """What is known against each component, by who can act on it: what it is about, what to do, and who says so.

    Args:
        advice: By component.
        converter: Who wrote the graph, and what is to be said of advice to them.
    """
    headings = {"app": "for the app's developer", "model": "for who designs the network", "converter": converter}
    width = min(shutil.get_terminal_size().columns, 110)
    for component, found in advice.items():
        for to, heading in headings.items():
            addressed = [each for each in found if each.to == to]
            if addressed:
                say(f"Advice on {component}, {heading}")
            for each in addressed:
                message = textwrap.fill(f"{each.message}.", width, initial_indent="    ", subsequent_indent="    ")
                say(f"  {each.kind}: {each.where}\n{message}\n    {each.source}")


def describe_package(package: Package) -> list[tuple[str, str]]:
    """What a package needs and how large it is, a line a fact."""
    because = f": {', '.join(package.because)}" if package.because else ""
    return [
        ("declares", _platforms(package.declares) or "a version of the format that is not known here"),
        ("needs", _platforms(package.needs) + because),
        ("functions", ", ".join(function.name for function in package.functions)),
        ("size", f"{sum(package.files.values()) / 1e6:.2f} MB in {len(package.files)} files"),
    ]


def value_rows(package: Package) -> list[tuple[str, ...]]:
    """One row an input, state or output: function, which of them, name, type and shape."""
    return [
        (function.name, value.role, value.name, value.dtype, _sizes(value))
        for function in package.functions
        for value in function.values
    ]


def _sizes(value: PackageValue) -> str:
    def shown(shape: Sequence[object]) -> str:
        return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"

    picture = f", a picture ({value.picture})" if value.picture else ""
    if value.choices:
        return " or ".join(shown(each) for each in value.choices) + picture
    if value.sizes is not None:
        return shown([low if low == high else f"{low} to {high or '?'}" for low, high in value.sizes]) + picture
    return ("any" if value.shape is None else shown(value.shape)) + picture


def _platforms(requires: Mapping[str, str]) -> str:
    """What something needs, in words, such as `iOS 16, macOS 13`."""
    return ", ".join(f"{platform} {least}" for platform, least in requires.items())


def describe(bundle: Bundle) -> list[tuple[str, str]]:
    """What a bundle is, a line a fact."""
    manifest = bundle.manifest
    image = manifest.image
    facts = [
        ("model", f"{manifest.source.name} ({manifest.source.family}, {manifest.source.licence})"),
        ("revision", manifest.source.revision),
        ("target", f"{manifest.target}, recipe {manifest.recipe.name}"),
        *(("in float32", place) for place in manifest.recipe.float32_ops),
        ("needs", _platforms(manifest.requires)),
        ("for the app", f"{bundle.artefact_bytes / 1e6:.2f} MB{_download(manifest)}"),
        ("with fixtures", f"{bundle.size_bytes / 1e6:.2f} MB in {len(manifest.files)} files"),
        ("peak memory", f"about {_megabytes(manifest.estimated_peak_memory_bytes)} of the engine's own (estimated)"),
        ("picture", f"{image.height} x {image.width}, {image.resize.replace('_', ' ')}, {image.resample}"),
    ]
    if manifest.dialogue is None:
        facts.append(("embedding", f"{manifest.embedding.dim} numbers, space {manifest.embedding.space_id[:19]}…"))
    else:
        facts += _of_dialogue(manifest.dialogue)
    facts.append(("digest", bundle.digest))
    for proof in manifest.weights:
        kinds = ", ".join(f"{count} int{bits}" for bits, count in proof.bits.items())
        facts.append((proof.component, f"{proof.identical} of {proof.decided} weights as NNCF decided: {kinds}"))
    if not manifest.weights and manifest.recipe.weights.dtype.startswith("palette"):
        facts.append(("weights", "in palettes of coremltools' choice, which the parity of the answers stands for"))
    if manifest.text:
        facts.append(("text", f"{manifest.text.context_length} tokens"))
    if manifest.labels:
        facts.append(("labels", f"{len(manifest.labels.names)}: {', '.join(manifest.labels.names[:6])}"))
    if manifest.parity:
        verdict = "passed" if manifest.parity.passed else "FAILED"
        asked = "pictures" if manifest.dialogue is None else "dialogues"
        facts.append(("parity", f"{verdict} on {manifest.parity.samples} {asked}, evidence {manifest.parity.evidence}"))
    return facts


def _of_dialogue(dialogue: Dialogue) -> list[tuple[str, str]]:
    """How a model that talks takes pictures and words."""
    facts = [("talks", f"a context of {dialogue.context_length:,} positions")]
    if dialogue.spelling is not None:
        facts.append(("a picture", f"{dialogue.spelling.positions} positions" + (" a tile" if dialogue.tiling else "")))
    if dialogue.tiling is not None and dialogue.tiling.cuts:
        tiling, grid = dialogue.tiling, dialogue.tiling.grid
        along = f"of {tiling.longest_edge} pixels along the longer side"
        many = along if grid is None else f"a grid of {grid.least} to {grid.most}"
        facts.append(("tiles", f"{tiling.tile} x {tiling.tile}, {many}"))
    if dialogue.describe:
        facts.append(("asks", dialogue.describe))
    return facts


def bars(picture: str, labels: Sequence[str], scores: NDArray[np.float32], top: int, *, share: bool = True) -> None:
    """A picture's best labels, each with a bar and its score, as a share or as it is; none whose score is -infinity."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    full, empty = "█░" if console.encoding.startswith("utf") else "#."
    console.print(printable(picture), style="bold", markup=False, soft_wrap=True)
    best = [index for index in np.argsort(-scores, kind="stable")[:top] if scores[index] > -np.inf]
    if not best:
        console.print("  none of the labels fits")
    for index in best:
        value = float(scores[index])
        filled = round(min(max(value, 0.0), 1.0) * BAR_WIDTH)
        bar, said = full * filled + empty * (BAR_WIDTH - filled), f"{value:6.1%}" if share else f"{value:7.4f}"
        console.print(f"  {bar} {said}  {visible(labels[index])}", markup=False, soft_wrap=True)


def ranking(title: str, pictures: Sequence[tuple[str, float]], told: Mapping[str, Any] | None) -> None:
    """Pictures with their cosines, the best first: a table, or in JSON where that is to have `told` as well."""
    if told is not None:
        images = [{"image": picture, "cosine": cosine} for picture, cosine in pictures]
        print_json({**told, "images": images})
    elif pictures:
        rows = [(printable(picture), f"{cosine:.4f}") for picture, cosine in pictures]
        table(title, ("picture", ">cosine"), rows)


def _parity_summary(parity: ParityReport) -> str:
    failed = [check for check in parity.checks if not check.passed]
    shown = failed or [check for check in parity.checks if check.measure in ("max_abs_error", "min_cosine")]
    if not shown:
        return ""
    if failed:
        return "\n".join(f"{c.component}: {c.measure} {c.value:.4g}, allowed {c.limit:g}" for c in failed)
    worst = max((c.value for c in shown if c.measure == "max_abs_error"), default=0.0)
    cosines = [c.value for c in shown if c.measure == "min_cosine"]
    agreements = [c.value for c in parity.checks if c.measure == "top1_agreement"]
    if cosines:
        return f"cosine ≥ {np.floor(min(cosines) * 1e7) / 1e7:.7f}, max abs {worst:.1e}"
    return f"top-1 the same for {min(agreements, default=1.0):.1%}, max abs {worst:.1e}"
