"""Small checkpoints of models that talk, in the hub's own file format. `python tests/talkers.py FOLDER` writes all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from checkpoints import CAPTIONS
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from edgevlm.benchmarks.checkpoints import SMOLVLM_TEMPLATE

SIDE, PATCH = 32, 8
QUESTIONS = ("What is it?", "Is there a red sofa in the photo?", "How many triangles are above the square?")
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
_VISION = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_BICUBIC = 3
_AROUND = "<fake_token_around_image>"
_PIXELS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
_LOUD = ("q_proj", "k_proj", "query", "key", "qkv")
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def amplify(network: Any, seed: int = 0) -> None:
    """Weights so large that every answer is another one: a random network of the usual size repeats one word."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.02)
                parameter *= (
                    8 if any(each in name for each in _LOUD) else 1 if "embed" in name or "shared" in name else 5
                )
            elif "bias" in name:
                parameter.normal_(0, 0.02)
            elif "class_embedding" in name:  # drawn before the seed was set
                parameter.normal_(0, 0.15)


def write_llava(
    folder: Path, *, tower: str = "clip", decoder: str = "llama", text: dict[str, Any] | None = None, **config: Any
) -> Path:
    """A LLaVA 1.5: CLIP's or SigLIP's tower, and a decoder of Llama's, Mistral's or Qwen2's kind."""
    import transformers

    special = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
    size = _write_metaspace_tokenizer(folder, special)
    vision = {"clip": transformers.CLIPVisionConfig, "siglip": transformers.SiglipVisionConfig}[tower](**_VISION)
    decoders_of = {
        "llama": transformers.LlamaConfig,
        "mistral": transformers.MistralConfig,
        "qwen2": transformers.Qwen2Config,
    }
    text_config = decoders_of[decoder](
        **{**_TEXT, "vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 4, **(text or {})}
    )
    given = {"vision_feature_select_strategy": "default" if tower == "clip" else "full"} | config
    network = transformers.LlavaForConditionalGeneration(
        transformers.LlavaConfig(vision_config=vision, text_config=text_config, image_token_index=3, **given)
    )
    _save(folder, network, eos_token_id=2, pad_token_id=4)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": SIDE},
        "resample": 3, "do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], **_PIXELS,
    })  # fmt: skip
    (folder / "chat_template.jinja").write_text(LLAVA_TEMPLATE, encoding="utf-8")
    _write(folder / "processor_config.json", {
        "processor_class": "LlavaProcessor", "patch_size": PATCH, "image_token": "<image>",
        "num_additional_image_tokens": 1 if tower == "clip" else 0,
        "vision_feature_select_strategy": given["vision_feature_select_strategy"],
    })  # fmt: skip
    return folder


def write_llava_next(folder: Path, *, tower: str = "clip", **text: Any) -> Path:
    """A LLaVA-NeXT."""
    import transformers

    write_llava(folder, tower=tower, text=text)
    plain = transformers.LlavaConfig.from_pretrained(folder)
    strategy = "default" if tower == "clip" else "full"
    sizes = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE], [3 * SIDE, SIDE]]
    network = transformers.LlavaNextForConditionalGeneration(
        transformers.LlavaNextConfig(
            vision_config=plain.vision_config, text_config=plain.text_config, image_token_index=3,
            image_grid_pinpoints=sizes, vision_feature_select_strategy=strategy,
        )
    )  # fmt: skip
    _save(folder, network, eos_token_id=2, pad_token_id=4)
    own = {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": sizes, "do_pad": True}
    named = {"preprocessor_config.json": own, "processor_config.json": {"processor_class": "LlavaNextProcessor"}}
    for name, more in named.items():
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        _write(folder / name, content | more)
    return folder


def write_smolvlm(folder: Path, *, kind: str = "smolvlm", splits: bool = True, **text: Any) -> Path:
    """A SmolVLM or an Idefics3, whose pictures are cut into tiles of 32 pixels."""
    import transformers

    special = (
        *("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"),
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    )
    size = _write_byte_tokenizer(folder, special)
    config_class, network_class = {
        "smolvlm": (transformers.SmolVLMConfig, transformers.SmolVLMForConditionalGeneration),
        "idefics3": (transformers.Idefics3Config, transformers.Idefics3ForConditionalGeneration),
    }[kind]
    text_config = transformers.LlamaConfig(
        **{**_TEXT, "vocab_size": size, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **text}
    )
    network = network_class(
        config_class(
            vision_config=_VISION, text_config=text_config, scale_factor=2, image_token_id=3, pad_token_id=1,
            tie_word_embeddings=True,
        )
    )  # fmt: skip
    _save(folder, network, eos_token_id=1, pad_token_id=1)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": {"smolvlm": "SmolVLMImageProcessor", "idefics3": "Idefics3ImageProcessor"}[kind],
        "do_resize": True, "size": {"longest_edge": 3 * SIDE}, "max_image_size": {"longest_edge": SIDE}, "resample": 1,
        "do_image_splitting": splits, "do_pad": True, "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], **_PIXELS,
    })  # fmt: skip
    _write(folder / "chat_template.json", {"chat_template": SMOLVLM_TEMPLATE})
    _write(folder / "processor_config.json", {
        "processor_class": {"smolvlm": "SmolVLMProcessor", "idefics3": "Idefics3Processor"}[kind],
        "image_seq_len": (SIDE // PATCH // 2) ** 2,
    })  # fmt: skip
    return folder


def write_internvl(
    folder: Path, *, decoder: str = "qwen2", vision: dict[str, Any] | None = None, **config: Any
) -> Path:
    """An InternVL, whose pictures are scaled to grids of up to six tiles of 32 pixels."""
    import transformers

    special = ("<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "</img>", "<video>")
    size = _write_byte_tokenizer(
        folder, special,
        extra_special_tokens={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        end="<|im_end|>",
    )  # fmt: skip
    kind = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[decoder]
    text = kind(
        **{**_TEXT, "head_dim": 16, "vocab_size": size, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    )
    tower = transformers.InternVLVisionConfig(
        **{
            **_VISION,
            "image_size": (SIDE, SIDE),
            "patch_size": (PATCH, PATCH),
            "attention_bias": True,
            **(vision or {}),
        }
    )
    network = transformers.InternVLForConditionalGeneration(
        transformers.InternVLConfig(
            vision_config=tower,
            text_config=text,
            image_token_id=3,
            image_seq_length=(SIDE // PATCH // 2) ** 2,
            **config,
        )
    )
    _save(folder, network, eos_token_id=1, pad_token_id=1)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "GotOcr2ImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "crop_to_patches": False, "min_patches": 1, "max_patches": 6, "resample": 3, "do_convert_rgb": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], **_PIXELS,
    })  # fmt: skip
    _write(folder / "processor_config.json", {
        "processor_class": "InternVLProcessor", "image_seq_length": (SIDE // PATCH // 2) ** 2,
    })  # fmt: skip
    (folder / "chat_template.jinja").write_text(INTERNVL_TEMPLATE, encoding="utf-8")
    return folder


def write_qwen_vl(folder: Path, *, kind: str = "qwen2_vl", **text: Any) -> Path:
    """A Qwen2-VL, 2.5-VL or 3-VL, in patches of 8 pixels, four of which become one row."""
    import transformers

    special = (
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
        *("<|image_pad|>", "<|video_pad|>"),
    )
    size = _write_byte_tokenizer(folder, special, end="<|im_end|>")
    config_class, network_class, tower, sections = {
        "qwen2_vl": (
            transformers.Qwen2VLConfig,
            transformers.Qwen2VLForConditionalGeneration,
            {"embed_dim": 48, "hidden_size": 64, "mlp_ratio": 2},
            {"mrope_section": [2, 3, 3]},
        ),
        "qwen2_5_vl": (
            transformers.Qwen2_5_VLConfig,
            transformers.Qwen2_5_VLForConditionalGeneration,
            {
                **{"hidden_size": 48, "out_hidden_size": 64, "intermediate_size": 64, "depth": 3},
                **{"window_size": 4 * PATCH, "fullatt_block_indexes": [1]},
            },
            {"mrope_section": [2, 3, 3]},
        ),
        "qwen3_vl": (
            transformers.Qwen3VLConfig,
            transformers.Qwen3VLForConditionalGeneration,
            {
                **{"hidden_size": 48, "out_hidden_size": 64, "intermediate_size": 64, "depth": 3},
                **{"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
            },
            {"mrope_section": [4, 2, 2], "mrope_interleaved": True},
        ),
    }[kind]
    network = network_class(
        config_class(
            vision_config={
                **{"depth": 2, "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2},
                **tower,
            },
            text_config={
                **{**_TEXT, "head_dim": 16, "vocab_size": size, "eos_token_id": 2, "pad_token_id": 0},
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **sections},
                **text,
            },
            **{"vision_start_token_id": 3, "vision_end_token_id": 4, "image_token_id": 5, "video_token_id": 6},
        )
    )
    _save(folder, network, eos_token_id=[2, 0], pad_token_id=0)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "Qwen2VLImageProcessor", "do_resize": True, "resample": 3, "do_convert_rgb": True,
        "size": {"shortest_edge": 256, "longest_edge": 4096}, "patch_size": PATCH, "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], **_PIXELS,
    })  # fmt: skip
    (folder / "chat_template.jinja").write_text(QWEN_TEMPLATE, encoding="utf-8")
    return folder


def write_paligemma(folder: Path, *, decoder: str = "gemma2", **text: Any) -> Path:
    """A PaliGemma, or with Gemma 2 a PaliGemma 2."""
    import transformers

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<image>")
    size = _write_gemma_tokenizer(folder, special)
    kind = {"gemma": transformers.GemmaConfig, "gemma2": transformers.Gemma2Config}[decoder]
    own = {"query_pre_attn_scalar": 24, "sliding_window": 1024} if decoder == "gemma2" else {}
    text_config = kind(
        **{
            **{**_TEXT, "head_dim": 16, "vocab_size": size, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
            **own,
            **text,
        }
    )
    network = transformers.PaliGemmaForConditionalGeneration(
        transformers.PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION},
            text_config=text_config.to_dict(),
            projection_dim=_TEXT["hidden_size"],
            hidden_size=_TEXT["hidden_size"],
            image_token_index=5,
            tie_word_embeddings=False,  # a tied head says what was said last again
        )
    )
    _save(folder, network, eos_token_id=1, pad_token_id=0)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "resample": 3, "do_convert_rgb": True, "image_seq_length": (SIDE // PATCH) ** 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], **_PIXELS,
    })  # fmt: skip
    _write(folder / "processor_config.json", {"processor_class": "PaliGemmaProcessor"})
    return folder


def write_idefics(folder: Path, *, resampler: bool = True, **config: Any) -> Path:
    """An Idefics, the Flamingo kind, with tokens that were added to a table of words."""
    import transformers

    special = ("<unk>", "<s>", "</s>")
    size = _write_metaspace_tokenizer(folder, special, added=(_AROUND, "<image>", "<end_of_utterance>"))
    network = transformers.IdeficsForVisionText2Text(
        transformers.IdeficsConfig(
            **{
                **{"vocab_size": size - 3, "additional_vocab_size": 3, "hidden_size": 64, "intermediate_size": 96},
                **{"num_hidden_layers": 2, "num_attention_heads": 4, "cross_layer_interval": 2, "qk_layer_norms": True},
                **{"alpha_initializer": "normal", "alphas_initializer_range": 1.0, "alpha_type": "vector"},
                **{"use_resampler": resampler, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
                "vision_config": {**{k: v for k, v in _VISION.items() if k != "hidden_size"}, "embed_dim": 48},
                "perceiver_config": {
                    **{"use_resampler": resampler, "resampler_n_latents": 6, "resampler_depth": 2},
                    **{"resampler_n_heads": 4, "resampler_head_dim": 12, "qk_layer_norms_perceiver": True},
                },
                **config,
            }
        )
    )
    _save(folder, network, eos_token_id=2, pad_token_id=0)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "IdeficsImageProcessor", "image_size": SIDE, "image_num_channels": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    })  # fmt: skip
    return folder


def picture_processor_of(folder: Path) -> Any:
    """transformers' own processor of a checkpoint's pictures, on Pillow."""
    import transformers

    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


class _WithoutVideos:
    """A processor that takes anything for its reader of videos, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return None
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[misc]


def processor_of(folder: Path) -> Any:
    """transformers' own processor of a checkpoint's pictures and words, on Pillow."""
    import transformers
    from transformers.models.smolvlm import processing_smolvlm

    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    if kind == "internvl":
        return _internvl_processor_of(folder)
    if kind.startswith("qwen"):
        return _qwen_processor_of(folder, kind)
    if kind != "smolvlm":
        return transformers.AutoProcessor.from_pretrained(folder, backend="pil")

    class WithoutVideos(_WithoutVideos, processing_smolvlm.SmolVLMProcessor):
        """SmolVLM's own, but for what it has for videos alone: a reader, and num2words."""

    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    template = json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    return WithoutVideos(
        picture_processor_of(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        SimpleNamespace(num_frames=1, fps=1),
        image_seq_len=config["image_seq_len"],
        chat_template=template,
    )


def _internvl_processor_of(folder: Path) -> Any:
    import transformers

    class WithoutVideos(_WithoutVideos, transformers.InternVLProcessor):  # type: ignore[misc]
        """InternVL's own, likewise."""

    config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    return WithoutVideos(
        picture_processor_of(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        SimpleNamespace(),
        image_seq_length=config["image_seq_length"],
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def _qwen_processor_of(folder: Path, kind: str) -> Any:
    import transformers

    own: Any = {
        "qwen2_vl": transformers.Qwen2VLProcessor,
        "qwen2_5_vl": transformers.Qwen2_5_VLProcessor,
        "qwen3_vl": transformers.Qwen3VLProcessor,
    }[kind]

    class WithoutVideos(_WithoutVideos, own):  # type: ignore[misc]
        """Qwen's own, likewise."""

    return WithoutVideos(
        picture_processor_of(folder),
        transformers.AutoTokenizer.from_pretrained(folder),
        SimpleNamespace(),
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
    )


def asked(folder: Path, picture: Any, text: str) -> Any:
    """What transformers' own processor makes of a picture and a question, for `generate`."""
    processor = processor_of(folder)
    if type(processor).__name__ == "IdeficsProcessor":
        return processor(text=[["User:", picture, text, "\nAssistant:"]], add_end_of_utterance_token=True)
    if type(processor).__name__ in ("BlipProcessor", "Blip2Processor", "Florence2Processor"):
        return processor(images=picture, text=text, return_tensors="pt")
    if not getattr(processor, "chat_template", None):  # PaliGemma's, which also makes labels, to train with
        inputs = processor(images=picture, text=f"<image>{text}", return_tensors="pt")
        return {name: found for name, found in inputs.items() if name != "labels"}
    said = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]
    return processor.apply_chat_template(
        said, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def scaled(picture: Any, model: Any) -> Any:
    """A picture as a model's own processor must get it: that of a family that takes any size keeps proportions."""
    if not model.source.family.startswith(("qwen", "llava_next")):
        return picture
    return picture.convert("RGB").resize((model.image.width, model.image.height), _BICUBIC)


def write_blip(folder: Path) -> Path:
    """BLIP's captioner."""
    import transformers

    size = _write_bert_tokenizer(folder)
    bos = size - 1
    network = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(
            text_config={
                "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": size, "max_position_embeddings": 64, "encoder_hidden_size": 48, "bos_token_id": bos,
                "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "is_decoder": True,
            },
            vision_config=_VISION,
        )
    )  # fmt: skip
    _save(folder, network, pad_token_id=0)
    _write_pictures_of_blip(folder)
    return folder


def write_florence_2(folder: Path, *, window: int = 3, **text: Any) -> Path:
    """A Florence-2 of two stages, whose windows do not divide its grids."""
    import transformers

    special = ("<s>", "<pad>", "</s>", "<unk>")
    size = _write_byte_tokenizer(
        folder, (*special, "<image>"), end="</s>", bos_token="<s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"}, begins=("<s>", "</s>"),
    )  # fmt: skip
    network = transformers.Florence2ForConditionalGeneration(
        transformers.Florence2Config(
            vision_config={
                "depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1],
                "patch_prenorm": [False, True], "embed_dim": [16, 32], "num_heads": [2, 4], "num_groups": [2, 4],
                "window_size": window, "projection_dim": 64, "mlp_ratio": 2.0, "drop_path_rate": 0.0,
            },
            text_config={
                "model_type": "bart", "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
                "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
                "decoder_ffn_dim": 96, "vocab_size": size, "max_position_embeddings": 1024, "bos_token_id": 0,
                "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2, "forced_eos_token_id": None, **text,
            },
            image_token_id=4,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    _save(folder, network, eos_token_id=2, pad_token_id=1, decoder_start_token_id=2, forced_bos_token_id=0)
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "do_center_crop": False, "resample": 3, "do_convert_rgb": True, "image_seq_length": 1 + (SIDE // 8) ** 2,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], **_PIXELS,
    })  # fmt: skip
    _write(folder / "processor_config.json", {"processor_class": "Florence2Processor"})
    return folder


def write_blip_vqa(folder: Path) -> Path:
    """BLIP that answers questions."""
    import transformers

    size = _write_bert_tokenizer(folder)
    network = transformers.BlipForQuestionAnswering(
        transformers.BlipConfig(
            text_config={
                "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "vocab_size": size, "max_position_embeddings": 128, "encoder_hidden_size": 64, "bos_token_id": size - 1,
                "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "is_decoder": True,
            },
            vision_config={**_VISION, "hidden_size": 64},
        )
    )  # fmt: skip
    _save(folder, network, pad_token_id=0, eos_token_id=3)
    _write_pictures_of_blip(folder)
    _write(folder / "processor_config.json", {"processor_class": "BlipProcessor"})
    return folder


def write_blip_2(folder: Path, **text: Any) -> Path:
    """A BLIP-2 with OPT."""
    import transformers

    special = ("<s>", "<pad>", "</s>", "<unk>")
    size = _write_byte_tokenizer(
        folder, (*special, "<image>"), end="</s>", bos_token="</s>", pad_token="<pad>", begins=("</s>", "")
    )
    network = transformers.Blip2ForConditionalGeneration(
        transformers.Blip2Config(
            vision_config=_VISION,
            qformer_config={
                "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                "cross_attention_frequency": 2, "encoder_hidden_size": 48,
            },
            text_config={
                "model_type": "opt", "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 96,
                "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": size, "max_position_embeddings": 1024,
                "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "tie_word_embeddings": False, **text,
            },
            num_query_tokens=6,
            image_token_index=4,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    _save(folder, network, eos_token_id=2, pad_token_id=1)
    _write_pictures_of_blip(folder)
    _write(folder / "processor_config.json", {"processor_class": "Blip2Processor", "num_query_tokens": 6})
    return folder


def _write_pictures_of_blip(folder: Path) -> None:
    """With keys that the hub's files have, and that change nothing."""
    _write(folder / "preprocessor_config.json", {
        "image_processor_type": "BlipImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
        "resample": 3, "do_convert_rgb": True, "do_pad": True, "size_divisor": 32,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711], **_PIXELS,
    })  # fmt: skip


def _save(folder: Path, network: Any, **generation: Any) -> None:
    amplify(network)
    network.generation_config.update(**generation)
    network.eval().save_pretrained(folder)


def _write_metaspace_tokenizer(folder: Path, special: Sequence[str], added: Sequence[str] = ()) -> int:
    """Llama's kind: BPE over words that begin with a mark, a begin-of-text id in front; what was added comes last."""
    tokenizer = _metaspace_tokenizer(special, normalizers.Prepend("\u2581"))
    tokenizer.add_special_tokens([*added])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return _write_tokenizer(
        folder, tokenizer, "PreTrainedTokenizerFast", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>",
    )  # fmt: skip


def _write_gemma_tokenizer(folder: Path, special: Sequence[str]) -> int:
    """Gemma's kind: the same, but for the mark before a text's first word."""
    tokenizer = _metaspace_tokenizer(special)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", "<bos> $A <bos> $B", [("<bos>", 2)])
    return _write_tokenizer(
        folder, tokenizer, "GemmaTokenizer", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        pad_token="<pad>", mask_token="<mask>",
    )  # fmt: skip


def _metaspace_tokenizer(special: Sequence[str], *before: Any) -> Tokenizer:
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "\u2581")])
    bytes_of = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(vocab_size=520, special_tokens=[*special, *bytes_of], show_progress=False)
    tokenizer.train_from_iterator([*CAPTIONS, *QUESTIONS, "USER: ASSISTANT: "], trainer)
    saved = json.loads(tokenizer.to_str())
    saved["added_tokens"] = [each for each in saved["added_tokens"] if each["content"] in special]
    return Tokenizer.from_str(json.dumps(saved))


def _write_byte_tokenizer(
    folder: Path,
    special: Sequence[str],
    *,
    end: str = "<end_of_utterance>",
    begins: tuple[str, str] | None = None,
    **config: Any,
) -> int:
    """GPT-2's kind: BPE over bytes; with tokens before and behind every text where `begins` has them."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=460, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*CAPTIONS, *QUESTIONS, "User: Assistant: \n\n"], trainer)
    if begins is not None:
        ids = [(each, special.index(each)) for each in begins if each]
        tokenizer.post_processor = processors.TemplateProcessing(f"{begins[0]} $A {begins[1]}".strip(), None, ids)
    config = {"bos_token": "<|im_start|>", "eos_token": end, "pad_token": end, **config}
    return _write_tokenizer(folder, tokenizer, "GPT2TokenizerFast", **config)


def _write_bert_tokenizer(folder: Path) -> int:
    """BERT's kind: word pieces in lower case."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        CAPTIONS, WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.add_tokens(["[DEC]"])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return _write_tokenizer(
        folder, tokenizer, "BertTokenizer", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]", pad_token="[PAD]",
        mask_token="[MASK]", do_lower_case=True,
    )  # fmt: skip


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, name: str, **config: Any) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": name, "model_max_length": 1024, **config})
    return tokenizer.get_vocab_size()


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


_ = Regex


KINDS: Mapping[str, Callable[[Path], Path]] = {
    "llava": write_llava,
    "llava-siglip-qwen2": lambda folder: write_llava(folder, tower="siglip", decoder="qwen2", vision_feature_layer=-1),
    "llava-mistral-two-layers": lambda folder: write_llava(
        folder, decoder="mistral", vision_feature_layer=[-2, 1], text={"sliding_window": None, "head_dim": 24}
    ),
    "llava-next": write_llava_next,
    "llava-next-siglip": lambda folder: write_llava_next(folder, tower="siglip"),
    "smolvlm": write_smolvlm,
    "smolvlm-one-key": lambda folder: write_smolvlm(folder, num_key_value_heads=1),
    "idefics3-whole": lambda folder: write_smolvlm(folder, kind="idefics3", splits=False),
    "internvl": write_internvl,
    "internvl-qwen3-normed": lambda folder: write_internvl(
        folder,
        decoder="qwen3",
        vision_feature_layer=-2,
        vision={"use_qk_norm": True, "norm_type": "rms_norm", "use_mean_pooling": False, "num_hidden_layers": 3},
    ),
    "qwen2-vl": write_qwen_vl,
    "qwen2.5-vl": lambda folder: write_qwen_vl(folder, kind="qwen2_5_vl", num_key_value_heads=1),
    "qwen3-vl": lambda folder: write_qwen_vl(folder, kind="qwen3_vl"),
    "paligemma": lambda folder: write_paligemma(folder, decoder="gemma"),
    "paligemma-2": write_paligemma,
    "idefics": write_idefics,
    "idefics-plain": lambda folder: write_idefics(
        folder,
        resampler=False,
        qk_layer_norms=False,
        alpha_type="float",
        alpha_initializer="ones",
        cross_layer_interval=1,
    ),
    "florence-2": write_florence_2,
    "blip-2": write_blip_2,
    "blip-2-norms-behind": lambda folder: write_blip_2(folder, do_layer_norm_before=False),
    "blip-vqa": write_blip_vqa,
    "blip": write_blip,
}
WITHOUT_TEMPLATE = (
    *("paligemma", "paligemma-2", "idefics", "idefics-plain", "florence-2"),
    *("blip-2", "blip-2-norms-behind", "blip-vqa", "blip"),
)
"""Those that are asked by other rules than a chat template's."""
SIZES: Mapping[str, tuple[int, int]] = {
    **{"qwen2-vl": (32, 48), "qwen2.5-vl": (64, 32), "qwen3-vl": (48, 32)},
    **{"llava-next": (64, 32), "llava-next-siglip": (64, 64)},
}
"""Height and width of the pictures of those that take any size."""

if __name__ == "__main__":
    for name, write in KINDS.items():
        write(Path(sys.argv[1]) / name)
