"""Bundles of components that nobody has converted as a whole: what a study or a test lowers or writes by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgevlm.bundle.bundle import Bundle, seal
from edgevlm.bundle.manifest import FORMAT_VERSION, BundledComponent, Manifest
from edgevlm.bundle.recipe import BUILTIN
from edgevlm.bundle.spec import ImagePreprocessing, Source


def bundle_for_tests(folder: Path, components: Mapping[str, BundledComponent], **changes: Any) -> Bundle:
    """Seals a folder of artefacts with a manifest that is whole.

    Pictures are those that the first component that takes any has, not normalised; embeddings are as long as the last
    dimension of the first component's output.

    Args:
        folder: Where the components' files lie.
        components: By name.
        changes: Fields of `Manifest` that are to be otherwise.

    Example:
        >>> bundle_for_tests(folder, {"encode_image": component}, target="tflite", recipe=BUILTIN["int8"])
    """
    specs = [each.spec for each in components.values()]
    shapes = [taken.shape for spec in specs for taken in spec.inputs if taken.name == "pixels"]
    height, width = shapes[0][-2:] if shapes else (1, 1)
    image = ImagePreprocessing(
        height, width, "exact", height, width, "bicubic", False, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    )
    fields: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": "small",
        "target": "coreml",
        "components": components,
        "image": image,
        "text": None,
        "labels": None,
        "embedding_dim": specs[0].outputs[0].shape[-1],
        "logit_scale": 1.0,
        "embedding_space_id": "",
        "recipe": BUILTIN["fp32"],
        "source": Source("small", "clip", "none", "Apache-2.0"),
        "requires": {},
        "estimated_peak_memory_bytes": 0,
        "parity": None,
        "tool_versions": {},
    }
    return seal(folder, Manifest(**{**fields, **changes}))
