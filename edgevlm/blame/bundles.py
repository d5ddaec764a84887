"""Blame for a shipped bundle, beside the float model that it was made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevlm.blame.blame import Blame
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.dialogue import DECODE
from edgevlm.errors import InputError
from edgevlm.models import catalogue
from edgevlm.models.families import TALKERS
from edgevlm.process.progress import Progress, silent
from edgevlm.targets import registry
from edgevlm.targets.isolation import tokenizer_of

if TYPE_CHECKING:
    from edgevlm.models.model import Model
    from edgevlm.models.talker import Talker


def source_model(bundle: Bundle, model: str | None = None) -> Model | Talker:
    """The float model that a bundle was made of.

    Args:
        model: Where it is now; None takes the name that the manifest has.

    Raises:
        InputError: it is not there, or it is another one.
    """
    source = bundle.manifest.source
    where = model or source.name
    try:
        loaded = catalogue.load_any(where, **_options(bundle))
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


def _options(bundle: Bundle) -> dict[str, Any]:
    """What a model that talks was loaded with, so that its components are the bundle's."""
    manifest = bundle.manifest
    if manifest.dialogue is None:
        return {}
    family, image = TALKERS.get(manifest.source.family), manifest.image
    return {
        "context_length": manifest.dialogue.context_length,
        "lengths": bundle.components[DECODE].spec.lengths,
        "picture_size": (image.height, image.width) if family is not None and family.sized else None,
    }


def blame_bundle(bundle: Bundle, model: Model | Talker, progress: Progress = silent) -> tuple[Blame, ...]:
    """Where each component parts from the model, on what it answers worst of golden's fixtures.

    Args:
        bundle: What was shipped.
        model: What `source_model` gives.
        progress: Told how far it is.

    Raises:
        MissingDependency: the target's runtime is not installed.
        BundleError: the file is damaged.
    """
    from edgevlm.blame.encoders import blame_encoders
    from edgevlm.blame.talkers import blame_talker
    from edgevlm.conversion.proof import fixtures
    from edgevlm.models.talker import Talker

    if isinstance(model, Talker):
        return blame_talker(bundle, model, progress)
    with registry.runtime_of(bundle).open(bundle, threads=1) as session:
        samples, reference = fixtures(bundle, tokenizer_of(bundle, session))
    return blame_encoders(bundle, model, samples, reference, progress)
