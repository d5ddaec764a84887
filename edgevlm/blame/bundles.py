"""Blame for a shipped bundle, on the parity sample that it answers worst."""

from __future__ import annotations

import numpy as np

from edgevlm.blame.blame import Blame, blame
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.spec import F32
from edgevlm.conversion.original import Prepared
from edgevlm.errors import InputError
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
    samples: comparison.Samples,
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
    prepared = Prepared(model, None, wanted=manifest.labels, image_only="encode_text" not in bundle.components)
    runtime = registry.runtime(manifest.target)
    found = []
    with runtime.open(bundle, threads=1) as session:
        asked = comparison.ask(
            session, tuple(bundle.components), samples, lambda share: progress("looking for the worst sample", share)
        )
    for name, component in bundle.components.items():
        (boundary,) = component.spec.inputs
        rows = samples.pixels if boundary.name == "pixels" else samples.token_ids
        wanted, got = _pair(name, reference, asked)
        worst = int(np.argmax(np.nan_to_num(np.abs(wanted - got), nan=np.inf).max(axis=1)))
        inputs = {boundary.name: rows[worst : worst + 1]}
        progress(f"tracing {name}", None)
        with quiet():
            ops = runtime.trace(bundle, name, inputs)
            progress(f"comparing {len(ops)} ops of {name} with the model's", None)
            found.append(blame(prepared.programs[name], ops, inputs, manifest.recipe, sample=worst))
    return tuple(found)


def _pair(component: str, reference: comparison.Answers, asked: comparison.Answers) -> tuple[F32, F32]:
    """What the reference and the bundle answer to all samples, [N, ...] each."""
    field = {"encode_image": "image", "encode_text": "text", "classify": "scores"}[component]
    wanted, got = getattr(reference, field), getattr(asked, field)
    return wanted, got
