"""Which embeddings may be compared: those of one model, compressed and fed alike, whatever the target."""

from __future__ import annotations

import hashlib
import json

from edgevlm import schema
from edgevlm.bundle.bundle import Bundle
from edgevlm.bundle.recipe import Recipe
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.bundle.versions import is_at_least
from edgevlm.errors import BundleError

_SINCE = "1.5"
"""Version of the format whose bundles hold all that the id is computed from."""


def embedding_space_id(
    image: ImagePreprocessing, recipe: Recipe, *, fingerprint: str, calibration: str | None = None
) -> str:
    """A hash of all that moves embeddings: an app indexes its pictures again when it changes.

    >>> image, recipe = bundle.manifest.image, bundle.manifest.recipe
    >>> embedding_space_id(image, recipe, fingerprint=bundle.manifest.source.fingerprint)
    'sha256:...'

    Args:
        image: How a picture becomes pixels.
        recipe: As settled for the target.
        fingerprint: Of the float model, as `Source` has it.
        calibration: Fingerprint of the data that ranges were measured on; None where none were.
    """
    moves = [*schema.write([image, recipe.precision, recipe.weights, recipe.activations]), fingerprint, calibration]
    return f"sha256:{hashlib.sha256(json.dumps(moves).encode()).hexdigest()}"


def check_embedding_space(bundle: Bundle) -> None:
    """Refuses a dual encoder's `embedding_space_id` that is not what the rest of its manifest makes.

    Raises:
        BundleError: another id, or, since format 1.5, no fingerprint to compute one from.
    """
    manifest, fingerprint = bundle.manifest, bundle.manifest.source.fingerprint
    if bundle.is_newer:  # what its image and recipe have beyond what is known here is part of its id
        return
    if fingerprint is None:
        if is_at_least(manifest.format_version, _SINCE):
            raise BundleError(f"{bundle.path}: source.fingerprint: expected one, as since format {_SINCE}, got none")
        return
    calibration = manifest.calibration.fingerprint if manifest.calibration else None
    expected = embedding_space_id(manifest.image, manifest.recipe, fingerprint=fingerprint, calibration=calibration)
    if manifest.embedding_space_id != expected:
        raise BundleError(
            f"{bundle.path}: embedding_space_id: expected {expected}, the hash of image, recipe, calibration and "
            f"source.fingerprint, got {manifest.embedding_space_id}"
        )
