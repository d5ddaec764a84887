"""The families of checkpoints that are read; needs no framework, so that any other is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from edgevlm import schema
from edgevlm.errors import CheckpointError

Family: TypeAlias = Literal["clip", "siglip"]
FAMILIES: tuple[Family, ...] = get_args(Family)


@dataclass(frozen=True)
class TalkingFamily:
    """A family of models that talk.

    Attributes:
        module: Whose `take_apart` makes components of a network.
        network: transformers' class of the network.
        about: What `edgevlm models` says of it.
        pictures: How they are made to fit: cut into tiles by their `longest_edge`, or to a `grid`; taken at `any_size`,
            or at `one_of` those that the checkpoint was trained with, of which a file has one. None where the
            checkpoint has one size for all.
        image_token: What stands for a picture, where the configuration does not name it.
        spoken: A pattern of special tokens that are part of what an answer says.
        note: What a user should know of how it is asked.
    """

    module: str
    network: str
    about: str
    pictures: Literal["longest_edge", "grid", "any_size", "one_of"] | None = None
    image_token: str | None = None
    spoken: str | None = None
    note: str | None = None

    @property
    def sized(self) -> bool:
        """Whether a user may choose the size that all pictures are scaled to."""
        return self.pictures in ("any_size", "one_of")


_SMOLVLM = "edgevlm.models.generators.smolvlm"
_QWEN_VL = "edgevlm.models.generators.qwen_vl"
TALKERS: Mapping[str, TalkingFamily] = {
    "llava": TalkingFamily(
        "edgevlm.models.generators.llava",
        "LlavaForConditionalGeneration",
        "LLaVA 1.5: CLIP's or SigLIP's tower, and a decoder of Llama's, Mistral's or Qwen's kind; it talks",
    ),
    "llava_next": TalkingFamily(
        "edgevlm.models.generators.llava_next",
        "LlavaNextForConditionalGeneration",
        "LLaVA-NeXT, likewise: pictures at one of the sizes that it was trained with; it talks",
        pictures="one_of",
    ),
    "smolvlm": TalkingFamily(
        _SMOLVLM,
        "SmolVLMForConditionalGeneration",
        "SmolVLM: pictures in tiles, a decoder of Llama's kind; it talks",
        pictures="longest_edge",
    ),
    "idefics3": TalkingFamily(
        _SMOLVLM, "Idefics3ForConditionalGeneration", "Idefics3, likewise", pictures="longest_edge"
    ),
    "internvl": TalkingFamily(
        "edgevlm.models.generators.internvl",
        "InternVLForConditionalGeneration",
        "InternVL, as Hugging Face has it: pictures in grids of tiles, a decoder of Qwen's or Llama's kind; it talks",
        pictures="grid",
    ),
    "qwen2_vl": TalkingFamily(
        _QWEN_VL,
        "Qwen2VLForConditionalGeneration",
        "Qwen2-VL: pictures at a size of your choice, places in height and width; it talks",
        pictures="any_size",
    ),
    "qwen2_5_vl": TalkingFamily(
        _QWEN_VL, "Qwen2_5_VLForConditionalGeneration", "Qwen2.5-VL, likewise", pictures="any_size"
    ),
    "qwen3_vl": TalkingFamily(_QWEN_VL, "Qwen3VLForConditionalGeneration", "Qwen3-VL, likewise", pictures="any_size"),
    "paligemma": TalkingFamily(
        "edgevlm.models.generators.paligemma",
        "PaliGemmaForConditionalGeneration",
        "PaliGemma and PaliGemma 2: SigLIP's tower, a decoder of Gemma's kind; it answers one question a picture",
    ),
    "idefics": TalkingFamily(
        "edgevlm.models.generators.idefics",
        "IdeficsForVisionText2Text",
        "Idefics, the Flamingo kind: a resampler, and layers that look at the picture through gates; it talks",
        image_token="<image>",
    ),
    "florence2": TalkingFamily(
        "edgevlm.models.generators.florence2",
        "Florence2ForConditionalGeneration",
        "Florence-2, as Hugging Face has it: one question a picture, in the words that its processor has for a task",
        spoken=r"<loc_\d+>",
        note="questions: in the words that the checkpoint's processor puts in place of a task, such as 'What does the "
        "image describe?' of <CAPTION>, or 'Locate the objects with category name in the image.' of <OD>",
    ),
    "blip-2": TalkingFamily(
        "edgevlm.models.generators.blip2",
        "Blip2ForConditionalGeneration",
        "BLIP-2 with OPT: 32 queries look at a picture; it goes on from a text, such as 'Question: how many? Answer:'",
        note="questions: a text is gone on from as it is: one is asked as 'Question: how many are there? Answer:'",
    ),
    "blip": TalkingFamily("edgevlm.models.generators.blip", "BlipForConditionalGeneration", "BLIP's captioner"),
}
"""By `model_type`."""
VARIANTS: Mapping[str, TalkingFamily] = {
    "blip, which answers questions": TalkingFamily(
        "edgevlm.models.generators.blip_vqa",
        "BlipForQuestionAnswering",
        "BLIP that answers a question about a picture in a word or two",
    ),
}
"""Families whose `model_type` is that of another, which their network's class tells apart; by what they are called."""
_ONE_TOWER = ("clip_text_model", "clip_vision_model", "siglip_text_model", "siglip_vision_model")


def read_family(config: Mapping[str, Any], where: str) -> Family:
    """`model_type` of a checkpoint's configuration.

    Args:
        config: The content of `config.json`.
        where: The file's name, for errors.

    Raises:
        CheckpointError: a family that is not carried.
    """
    family = config.get("model_type")
    for known in FAMILIES:
        if family == known:
            return known
    if isinstance(family, str) and family in TALKERS:
        raise CheckpointError(
            f"{where}: expected a dual encoder, of the kinds {', '.join(FAMILIES)}, got {family}, which talks",
            hint="edgevlm convert converts it; edgevlm run --ask asks the bundle",
        )
    raise CheckpointError(
        f"{where}: model_type: expected one of {', '.join((*FAMILIES, *TALKERS))}, got {family!r}",
        hint="this is one tower of a dual encoder: give the checkpoint that holds both, a CLIPModel or a SiglipModel"
        if family in _ONE_TOWER
        else None,
    )


def talking_family(config: Mapping[str, Any], where: str) -> TalkingFamily:
    """The family of a checkpoint that talks.

    Args:
        config: The content of its `config.json`.
        where: The file's name, for errors.

    Raises:
        CheckpointError: a network of another kind, or in another layout than transformers has.
    """
    family, named = TALKERS[str(config["model_type"])], config.get("architectures")
    kinds = {each.network: each for each in (family, *VARIANTS.values()) if each.module.startswith(family.module)}
    if isinstance(named, list) and named:
        if named[0] not in kinds:
            raise CheckpointError(
                f"{where}: architectures: expected {' or '.join(kinds)}, got {named[0]!r}",
                hint="a checkpoint with another head, such as for retrieval, does not talk",
            )
        family = kinds[named[0]]
    own_layout = {"florence2_language", "davit"}
    parts = (config.get(part) for part in ("text_config", "vision_config"))
    if any(isinstance(part, Mapping) and part.get("model_type") in own_layout for part in parts):
        raise CheckpointError(
            f"{where}: expected Florence-2 as Hugging Face has it, got the layout of Microsoft's own code",
            hint="the same weights are in florence-community/Florence-2-base and its kin",
        )
    return family


def talks(folder: Path) -> bool:
    """Whether a checkpoint's `config.json` names a family of models that talk."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    config = schema.read_json(file, error=CheckpointError, hint="download it again")
    return isinstance(config, Mapping) and str(config.get("model_type")) in TALKERS
