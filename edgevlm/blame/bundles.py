"""Blame for a shipped bundle, on the parity sample that it answers worst."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgevlm.blame.blame import Blame, blame
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import F32
from edgevlm.conversion.prepared import Prepared
from edgevlm.errors import InputError
from edgevlm.inputs.rows import TOKEN_IDS, Rows, inputs_of, takes
from edgevlm.models import catalogue
from edgevlm.models.model import Model
from edgevlm.parity import comparison
from edgevlm.process.progress import Progress, silent
from edgevlm.process.quiet import quiet
from edgevlm.targets import registry


def source_model(bundle: Bundle, model: str | None = None) -> Model:
    """The float model that a bundle was made of.

    Args:
        model: Where it is now; None takes the name that the manifest has.

    Raises:
        InputError: it is not there, or it is another one.
    """
    source = bundle.manifest.source
    where = model or source.name
    try:
        loaded = catalogue.load(where)
    except InputError as error:
        if model is not None:
            raise
        raise InputError(
            f"the bundle was made of {source.name!r}, which is not found: {error.message}",
            hint="--model says where that model is now",
        ) from error
    if loaded.source.revision != source.revision:
        raise InputError(
            f"{where} is not the model that the bundle was made of: expected {source.revision}, "
            f"got {loaded.source.revision}",
            hint="--model takes the very checkpoint that was converted",
        )
    return loaded


def blame_bundle(
    bundle: Bundle,
    model: Model,
    samples: Rows,
    reference: comparison.Answers,
    progress: Progress = silent,
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
        worst = _worst_row(reference[spec.name], asked[spec.name])
        inputs = {name: rows[worst : worst + 1] for name, rows in inputs_of(spec, samples).items()}
        progress(f"tracing {spec.name}", None)
        with quiet():
            ops = runtime.trace(bundle, spec.name, inputs)
            progress(f"comparing {len(ops)} ops of {spec.name} with the model's", None)
            found.append(blame(prepared.programs[spec.name], ops, inputs, manifest.recipe, sample=worst))
    return tuple(found)


def _worst_row(expected: Mapping[str, F32], got: Mapping[str, F32]) -> int:
    """The sample at which an output of a component is farthest from the original's."""
    errors = [
        np.nan_to_num(np.abs(expected[output] - rows), nan=np.inf).reshape(len(rows), -1).max(axis=1)
        for output, rows in got.items()
    ]
    return int(np.argmax(np.max(errors, axis=0)))
