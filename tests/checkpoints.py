"""Small real checkpoints, in the hub's own file format, made in the test."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram

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
        tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in (BOS, EOS)])
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
