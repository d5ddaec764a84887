"""Checkpoints of the usual sizes with random weights, in Hugging Face format: what a benchmark needs of one offline."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"


def write_clip(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """A CLIP, of ViT-B/32's size unless told otherwise. Its tokens are letters.

    Args:
        folder: Made if it is not there.
        config: Laid over `CLIPConfig`'s defaults.
    """
    from tokenizers import processors
    from transformers import CLIPConfig, CLIPModel

    model = _write_model(folder, CLIPModel, CLIPConfig(**(config or {})))
    text = model.config.text_config
    special = {_BOS: text.bos_token_id, _EOS: text.eos_token_id}
    tokenizer = _letters(first_id=0, special=special, unknown=_EOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}", special_tokens=list(special.items())
    )
    _write_tokenizer(folder, tokenizer, "CLIPTokenizer", bos_token=_BOS, eos_token=_EOS, unk_token=_EOS, pad_token=_EOS)
    size = model.config.vision_config.image_size
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": size},
            "crop_size": {"height": size, "width": size},
            "resample": 3,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    )
    return folder


def write_siglip(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """A SigLIP, of base/16-224's size unless told otherwise. Its tokens are letters.

    Args:
        folder: Made if it is not there.
        config: Laid over `SiglipConfig`'s defaults.
    """
    from tokenizers import processors
    from transformers import SiglipConfig, SiglipModel

    model = _write_model(folder, SiglipModel, SiglipConfig(**(config or {})))
    tokenizer = _letters(first_id=3, special={"<pad>": 0, "</s>": 1, "<unk>": 2}, unknown="<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    _write_tokenizer(folder, tokenizer, "SiglipTokenizer", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    size = model.config.vision_config.image_size
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": size, "width": size},
            "resample": 3,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    return folder


SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def write_smolvlm(folder: Path) -> Path:
    """A SmolVLM of SmolVLM-256M's size: a tower of 93 million weights, and a decoder of 135 million that is tied.

    Its tokens are letters, and words of numbers that nothing is cut into, so that every answer can be read.
    """
    from tokenizers import decoders
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration

    text = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, rms_norm_eps=1e-5, vocab_size=49280, bos_token_id=0, eos_token_id=1,
        pad_token_id=1, rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
    )  # fmt: skip
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 512, "patch_size": 16,
    }  # fmt: skip
    config = SmolVLMConfig(
        vision_config=vision, text_config=text, scale_factor=4, image_token_id=3, pad_token_id=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    _write_model(folder, SmolVLMForConditionalGeneration, config)
    special = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    numbered = {token: number for number, token in enumerate(special)}
    tokenizer = _letters(len(special), special=numbered, unknown=special[0], words=text.vocab_size)
    tokenizer.decoder = decoders.Fuse()
    _write_tokenizer(
        folder, tokenizer, "PreTrainedTokenizerFast", bos_token=special[0], eos_token=special[1], pad_token=special[1]
    )
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SmolVLMImageProcessor",
            "do_resize": True,
            "size": {"longest_edge": 2048},
            "max_image_size": {"longest_edge": 512},
            "resample": 1,
            "do_image_splitting": True,
            "do_pad": True,
            "do_convert_rgb": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    _write_json(folder / "chat_template.json", {"chat_template": SMOLVLM_TEMPLATE})
    return folder


def _write_model(folder: Path, model_class: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config)
    model.save_pretrained(folder)
    return model


def _letters(first_id: int, special: Mapping[str, int], unknown: str, words: int = 0) -> Tokenizer:
    """Splits a text into its printable ASCII characters; ids beyond theirs, up to `words`, are ` word1000`."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    letters = {letter: first_id + index for index, letter in enumerate(string.printable)}
    beyond = {f" word{number}": number for number in range(first_id + len(letters), words)}
    tokenizer = Tokenizer(models.WordLevel({**letters, **beyond, **special}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, kind: str, **named: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": kind, **named})


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
