"""Blame for a dual encoder's bundle, on the parity sample that each component answers worst."""

from __future__ import annotations

from edgevlm.blame.blame import Blame, blame, worst_row
from edgevlm.bundle.bundle import Bundle
from edgevlm.conversion.prepared import Prepared
from edgevlm.inputs.rows import TOKEN_IDS, Rows, inputs_of, takes
from edgevlm.models.model import Model
from edgevlm.parity import comparison
from edgevlm.process.progress import Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets import registry


def blame_encoders(
    bundle: Bundle, model: Model, samples: Rows, reference: comparison.Answers, progress: Progress = silent
) -> tuple[Blame, ...]:
    """Where each component parts from the model, on the sample that it answers worst.

    Args:
        bundle: What was shipped.
        model: The float model that it was made of.
        samples, reference: Of its golden fixtures.

    Raises:
        MissingDependency: the target's runtime is not installed.
        BundleError: the file is damaged.
    """
    manifest = bundle.manifest
    specs = [component.spec for component in bundle.components.values()]
    speaks = any(takes(spec, TOKEN_IDS) for spec in specs)
    prepared = Prepared(model, None, wanted=manifest.labels, image_only=not speaks)
    runtime = registry.runtime_of(bundle)
    found = []
    with runtime.open(bundle, threads=1) as session:
        asked = comparison.ask(session, specs, samples, lambda share: progress("looking for the worst sample", share))
    for spec in specs:
        worst = worst_row(reference[spec.name], asked[spec.name])
        inputs = {name: rows[worst : worst + 1] for name, rows in inputs_of(spec, samples).items()}
        progress(f"tracing {spec.name}", None)
        with quiet():
            ops = runtime.trace(bundle, spec.name, inputs)
            progress(f"comparing {len(ops)} ops of {spec.name} with the model's", None)
            found.append(blame(prepared.programs[spec.name], ops, inputs, manifest.recipe, sample=worst))
    return tuple(found)
