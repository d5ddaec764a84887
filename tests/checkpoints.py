"""Small real checkpoints, in the hub's own file format, made in the test."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

CAPTIONS = (
    "a photo of a cat sleeping on a red sofa",
    "a photo of a dog running on the beach",
    "a black and white photo of an old bicycle leaning against a wall",
    "two children playing football in the park, it's sunny",
    "a plate of spaghetti with tomato sauce and basil",
    "the city at night, seen from above",
    "a small blue square left of a large green circle",
    "three yellow triangles above a red square",
    "a cat and a dog looking out of the window; they're waiting",
    "an aeroplane flying over snowy mountains in 2024",
)

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_clip_tokenizer(folder: Path, *, with_tokenizer_json: bool = True, context_length: int = 77) -> int:
    """Learns CLIP's byte-level BPE from a few captions and writes it as openai/clip-vit-* does.

    Ids run as in the original: 256 bytes, the same 256 with `</w>`, the merges, then `<|startoftext|>` (size - 2)
    and `<|endoftext|>` (size - 1), which also pads.

    Returns:
        The vocabulary's size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = _clip_merges()
    letters = _bytes_in_gpt2_order()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), BOS, EOS]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    named = {"bos_token": {"content": BOS, **special}, "eos_token": {"content": EOS, **special}}
    named["unk_token"] = {"content": EOS, **special}
    _write_json(folder / "special_tokens_map.json", {**named, "pad_token": EOS})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": context_length,
            "do_lower_case": True,
            "errors": "replace",
            **{name: {"__type": "AddedToken", **token} for name, token in named.items()},
            "pad_token": EOS,
        },
    )
    if with_tokenizer_json:
        tokenizer = _clip_pipeline(BPE(vocab, merges, end_of_word_suffix="</w>", unk_token=EOS))
        tokenizer.add_special_tokens(
            [AddedToken(BOS, normalized=True, special=True), AddedToken(EOS, normalized=False, special=True)]
        )
        tokenizer.post_processor = processors.RobertaProcessing(
            (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
        )
        tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocab)


def write_siglip_tokenizer(folder: Path, *, context_length: int = 64) -> int:
    """Writes a small Unigram tokenizer in the form of google/siglip-*: `<pad>` 0, `</s>` 1 (ends and pads), `<unk>` 2.

    Its `tokenizer.json` is T5's: canonicalising normaliser, Metaspace, `$A </s>`. There is no `spiece.model`.

    Returns:
        The vocabulary's size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _unigram_pieces()
    tokenizer = Tokenizer(Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"), ""),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False}
    tokenizer.add_special_tokens([AddedToken(token, special=True, **special) for token in ("</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    _write_json(
        folder / "special_tokens_map.json", {name: {"content": token, **special} for name, token in named.items()}
    )
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "SiglipTokenizer",
            "model_max_length": context_length,
            "do_lower_case": True,
            "added_tokens_decoder": {
                str(index): {"content": token, "special": True, **special}
                for index, token in ((1, "</s>"), (2, "<unk>"))
            },
            "model_input_names": ["input_ids"],
            "sp_model_kwargs": {},
            **named,
        },
    )
    return len(pieces)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _clip_pipeline(model: BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _clip_merges(count: int = 190) -> list[tuple[str, str]]:
    """BPE's merges (Sennrich et al., 2016), ties by spelling: the library's trainer gives others each time."""
    pipeline = _clip_pipeline(BPE())
    words = [list(word) for caption in CAPTIONS for word, _ in pipeline.pre_tokenizer.pre_tokenize_str(caption)]
    words = [[*letters[:-1], letters[-1] + "</w>"] for letters in words]
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _bytes_in_gpt2_order() -> list[str]:
    """The 256 letters that stand for bytes, printable ones first, as in OpenAI's `bytes_to_unicode`."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _unigram_pieces() -> list[tuple[str, float]]:
    """Words, their beginnings and single letters, scored by length and rank, so that the ids never change."""
    words = sorted({word.strip(",;") for caption in CAPTIONS for word in caption.split()})
    pieces = (
        [f"▁{word}" for word in words] + [f"▁{word[:3]}" for word in words] + ["ing", "ed", "er", "s", "es", "tion"]
    )
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789éüñ猫"]
    unique = dict.fromkeys(pieces)
    scored = [(piece, -4.0 - 2.5 / len(piece) - math.log1p(rank) / 3) for rank, piece in enumerate(unique)]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *scored]


VIT_B32_VISION = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}


def write_clip_checkpoint(
    folder: Path,
    *,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    projection_dim: int = 24,
    dtype: torch.dtype | None = None,
    amplified: bool = True,
    seed: int = 0,
) -> Path:
    """Writes a CLIP with random weights in the files of openai/clip-vit-*: two layers a tower unless told otherwise.

    Args:
        folder: Made if it is not there.
        text, vision: Laid over `text_config` and `vision_config`, e.g. `VIT_B32_VISION`
            (with `projection_dim=512`).
        preprocessor: Laid over `preprocessor_config.json`.
        dtype: Of the stored weights; float32 where it is None.
        amplified: Makes attention sharp and every tensor matter: see `_amplify`.

    Returns:
        `folder`.
    """
    from transformers import CLIPConfig, CLIPModel

    context_length = (text or {}).get("max_position_embeddings", 77)
    vocabulary = write_clip_tokenizer(folder, context_length=context_length)
    text_config = {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": context_length,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": projection_dim,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
        **(text or {}),
    }
    vision_config = {
        "model_type": "clip_vision_model",
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": projection_dim,
        **(vision or {}),
    }
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": projection_dim,
        "logit_scale_init_value": 2.6592,
        "text_config": text_config,
        "vision_config": vision_config,
    }
    size = vision_config["image_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
        **(preprocessor or {}),
    }
    _write_model(folder, CLIPModel, CLIPConfig, config, processor, "mit", dtype, amplified, seed)
    return folder


def write_siglip_checkpoint(
    folder: Path,
    *,
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    amplified: bool = True,
    seed: int = 0,
) -> Path:
    """Writes a SigLIP with random weights in the files of google/siglip-*; arguments as `write_clip_checkpoint`'s."""
    from transformers import SiglipConfig, SiglipModel

    context_length = (text or {}).get("max_position_embeddings", 64)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
    config: dict[str, Any] = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "text_config": {
            "model_type": "siglip_text_model",
            "vocab_size": write_siglip_tokenizer(folder, context_length=context_length),
            "max_position_embeddings": context_length,
            **sizes,
            **(text or {}),
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "image_size": 32,
            "patch_size": 8,
            **sizes,
            **(vision or {}),
        },
    }
    size = config["vision_config"]["image_size"]
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **(preprocessor or {}),
    }
    _write_model(folder, SiglipModel, SiglipConfig, config, processor, "apache-2.0", dtype, amplified, seed)
    return folder


def _write_model(
    folder: Path,
    model_class: type[PreTrainedModel],
    config_class: type[PreTrainedConfig],
    config: dict[str, Any],
    processor: dict[str, Any],
    licence: str,
    dtype: torch.dtype | None,
    amplified: bool,
    seed: int,
) -> None:
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config_class.from_dict(config))
        if amplified:
            _amplify(model)
    state = {name: tensor.to(dtype or torch.float32).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", config)
    _write_json(folder / "preprocessor_config.json", processor)
    front_matter = f"---\nlicense: {licence}\ntags:\n- vision\n---\n\n# A small model with random weights\n"
    (folder / "README.md").write_text(front_matter, encoding="utf-8")


def _amplify(model: PreTrainedModel) -> None:
    """Makes random weights as telling as trained ones.

    As initialised, attention is nearly uniform, every bias is zero and every norm the identity: a softmax over the
    wrong axis or a dropped bias moves no embedding by more than rounding does. So queries and keys grow 8 times,
    values, outputs and MLPs 3 times, and biases and norms become random.

    Those factors suit CLIP's initialisation, which shrinks with depth; SigLIP's does not, and would make a network so
    chaotic that float16 is a different one.
    """
    import torch

    layers = model.config.text_config.num_hidden_layers
    shrink = (2 * layers) ** -0.5 if model.config.model_type == "siglip" else 1.0
    for name, parameter in model.named_parameters():
        owner, _, kind = name.rpartition(".")
        layer = owner.rpartition(".")[2]
        if kind in ("bias", "in_proj_bias") or "norm" in layer or "layrnorm" in layer:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        elif layer in ("q_proj", "k_proj"):
            parameter.mul_(8 * shrink)
        elif layer in ("v_proj", "out_proj", "fc1", "fc2"):
            parameter.mul_(3 * shrink)
        elif kind == "in_proj_weight":  # query, key and value of SigLIP's pooling head, stacked
            parameter.mul_((shrink * torch.tensor([8.0, 8.0, 3.0])).repeat_interleave(len(parameter) // 3)[:, None])
        elif layer in ("token_embedding", "position_embedding") or kind in ("class_embedding", "probe"):
            parameter.copy_(torch.randn_like(parameter))
        elif layer == "patch_embedding":
            parameter.mul_(3 / (parameter.std() * parameter[0].numel() ** 0.5))
        elif name == "logit_scale":
            parameter.fill_(math.log(100))
        elif name == "logit_bias":
            parameter.fill_(-10.0)
