"""What a package says about itself: in Xcode, and to an app that has no manifest beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from edgevlm.bundle.manifest import Manifest, PictureInput
from edgevlm.bundle.spec import TensorSpec

SPECIFICATION = Path("Data", "com.apple.CoreML", "model.mlmodel")


def describe(package: Path, manifest: Manifest) -> None:
    """Writes the description, author, licence and version of a package, and what its answers mean.

    What it defines of its own is called as in the manifest, and is text: for `classify`, `labels` is a JSON list.

    Args:
        package: The `.mlpackage`, one of the bundle's.
        manifest: Of the bundle that it is part of.
    """
    from coremltools.proto import Model_pb2  # type: ignore[import-untyped]

    components = {name: each for name, each in manifest.components.items() if each.file == package.name}
    model, source = Model_pb2.Model.FromString((package / SPECIFICATION).read_bytes()), manifest.source
    said: dict[str, str] = {}
    for each in components.values():
        spec = each.spec
        said |= {tensor.name: _meaning(tensor, each.pictures) for tensor in (*spec.inputs, *spec.outputs, *spec.state)}
        said |= {tensor.written: f"{tensor.meaning}, with the new rows" for tensor in spec.state}
    for described in (model.description, *model.description.functions):
        for feature in (*described.input, *described.output, *described.state):
            feature.shortDescription = said[feature.name]
    about = model.description.metadata
    about.shortDescription = " ".join(
        f"{name} of {manifest.name}: takes {_listed(each.spec.inputs, said)}; "
        f"returns {_listed(each.spec.outputs, said)}."
        for name, each in components.items()
    )
    about.author = f"{source.name}, converted by EdgeVLM"
    about.license = source.licence
    about.versionString = source.revision
    about.userDefined.update(_own(components, manifest))
    (package / SPECIFICATION).write_bytes(model.SerializeToString(deterministic=True))


def _own(components: Iterable[str], manifest: Manifest) -> dict[str, str]:
    found = {"source": manifest.source.name, "recipe": manifest.recipe.name}
    if manifest.dialogue is not None:
        return found | {"context_length": str(manifest.dialogue.context_length)}
    found["embedding_space_id"] = manifest.embedding.space_id
    found["logit_scale"] = repr(manifest.embedding.logit_scale)
    if manifest.embedding.logit_bias is not None:
        found["logit_bias"] = repr(manifest.embedding.logit_bias)
    if "classify" in components and manifest.labels is not None:
        found["labels"] = json.dumps(manifest.labels.names, ensure_ascii=False)
    return found


def _meaning(tensor: TensorSpec, pictures: Mapping[str, PictureInput]) -> str:
    picture = pictures.get(tensor.name)
    if picture is None:
        return tensor.meaning
    return (
        f"a picture, {picture.layout}, {picture.width} pixels wide and {picture.height} high, resized and cropped; "
        f"{picture.scaling}"
    )


def _listed(tensors: Iterable[TensorSpec], said: Mapping[str, str]) -> str:
    return ", ".join(f"{tensor.name} {list(tensor.shape)} ({said[tensor.name]})" for tensor in tensors)
