"""Texts in, ids out: equal to transformers' own tokenizers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
import torch
from checkpoints import CAPTIONS, write_clip_tokenizer, write_siglip_checkpoint, write_siglip_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Siglip2Tokenizer,
    SiglipModel,
    SiglipTokenizer,
)

from edgevlm.errors import CheckpointError, InputError
from edgevlm.inputs.texts import Tokenizer
from edgevlm.models import catalogue
from edgevlm.models.checkpoints.text_rules import CheckpointTokenizer, Family, from_checkpoint, notes

TEXTS = (
    "",
    " ",
    "a",
    "a photo of a cat",
    "A PHOTO of a Cat!",
    "  two   spaces,\ttabs\nand\r\nnew lines \u00a0\u2003 ",
    "it's they're we've I'm you'll he'd don't IT'S",
    "caf\u00e9 cafe\u0301 \u212bngstr\u00f6m A\u030angstro\u0308m \ufb01ne",
    "\U0001f600 a cat \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "猫の写真 고양이 صورة قطة ฉันรักแมว",
    "Straße İstanbul ΣΊΣΥΦΟΣ Ǆ",
    "1234567890 3.14 10,000 ² ½ Ⅷ ٣",
    "!?.,:;-_'\"()[]{}<>@#$%^&*+=|\\/~`",
    "«quotes» “curly” … — ¿qué? ‰ €",
    "snake_case kebab-case CamelCase a.b.c http://example.org/?q=1&r=2",
    "\u0000 null \u200b zero width \ufeff mark \u00ad hyphen",
    "\u2581 the piece mark \u2581\u2581 twice",
    "word " * 100,
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
    "x" * 500,
    "\U0001f600" * 100,
)
CLIP_SPECIAL_TEXTS = (
    "<|endoftext|>",
    "a <|endoftext|> b",
    "<|startoftext|>a<|startoftext|>",
    "<|STARTOFTEXT|> and <|EndOfText|>",
    "a cat<|endoftext|>",
    "<|endoftext|",
)
LENGTHS = (4, 16, 77)


def opened(checkpoint: CheckpointTokenizer, folder: Path) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    checkpoint.write(folder)
    return Tokenizer(checkpoint.spec, folder)


def oracle_ids(tokenizer: Any, texts: Any, length: int) -> list[list[int]]:
    return [
        tokenizer(text, padding="max_length", padding_side="right", truncation=True, max_length=length)["input_ids"]
        for text in texts
    ]


def edit(path: Path, **changes: Any) -> None:
    """Sets keys of a JSON file; None removes one."""
    data = json.loads(path.read_text(encoding="utf-8")) | changes
    data = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def train_siglip(folder: Path, *, normalisation: str = "nmt_nfkc") -> None:
    """A SigLIP checkpoint's tokenizer with both files: `spiece.model`, trained here, and the same as tokenizer.json.

    The model has what google/siglip-* has: c4_en's ids, T5's character map, no byte fallback.
    """
    write_siglip_tokenizer(folder)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CAPTIONS, "cafe\u0301 stra\u00dfe 0123456789", "\u732b \uace0\uc591\uc774"] * 2),
        model_prefix=str(folder / "spiece"),
        vocab_size=150,
        model_type="unigram",
        normalization_rule_name=normalisation,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(  # type: ignore[attr-defined]
        (folder / "spiece.model").read_bytes()
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.model = models.Unigram([(piece.piece, piece.score) for piece in model.pieces], unk_id=2)
    tokenizer.normalizer = normalizers.Sequence(
        [
            tokenizer.normalizer,
            normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
            normalizers.Strip(),
            normalizers.Replace(Regex(r" {2,}"), " "),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_siglip2_tokenizer(folder: Path) -> None:
    """Gemma's kind of tokenizer, as google/siglip2-* has it: BPE over pieces with `▁`, bytes where a piece lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    merges = [("▁", "c"), ("c", "a"), ("▁c", "a"), ("▁ca", "t"), ("p", "h"), ("o", "t"), ("ph", "ot"), ("▁", "▁")]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzABC0123456789.,!'é"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *(a + b for a, b in merges)]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk", "mask")}
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def clip_of_two_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip_of_two_files")
    write_clip_tokenizer(folder, with_tokenizer_json=False)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    train_siglip(folder)
    return folder


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("files", ["clip", "clip_of_two_files"])
@pytest.mark.parametrize("oracle", [CLIPTokenizer, AutoTokenizer], ids=lambda kind: kind.__name__)
def test_clip_ids_equal_transformers(
    files: str, oracle: Any, length: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(files)
    texts = TEXTS + CLIP_SPECIAL_TEXTS
    tokenizer = opened(from_checkpoint(folder, family="clip", context_length=length), tmp_path)
    expected = oracle_ids(oracle.from_pretrained(folder), texts, length)
    got = tokenizer.encode(texts)
    assert got.dtype == np.int32
    assert got.shape == (len(texts), length)
    for text, ids, expected_ids in zip(texts, got.tolist(), expected, strict=True):
        assert ids == expected_ids, repr(text)


@pytest.mark.parametrize("length", [4, 16, 64])
def test_siglip_ids_equal_transformers(siglip: Path, length: int, tmp_path: Path) -> None:
    tokenizer = opened(from_checkpoint(siglip, family="siglip", context_length=length), tmp_path)
    expected = oracle_ids(SiglipTokenizer.from_pretrained(siglip), TEXTS, length)
    for text, ids, expected_ids in zip(TEXTS, tokenizer.encode(TEXTS).tolist(), expected, strict=True):
        assert ids == expected_ids, repr(text)


@pytest.mark.parametrize("length", LENGTHS)
def test_siglip2_ids_equal_transformers(length: int, tmp_path: Path) -> None:
    write_siglip2_tokenizer(tmp_path / "siglip2")
    checkpoint = from_checkpoint(tmp_path / "siglip2", family="siglip", context_length=length)
    expected = oracle_ids(Siglip2Tokenizer.from_pretrained(tmp_path / "siglip2"), TEXTS, length)
    for text, ids, expected_ids in zip(
        TEXTS, opened(checkpoint, tmp_path).encode(TEXTS).tolist(), expected, strict=True
    ):
        assert ids == expected_ids, repr(text)
    assert (checkpoint.spec.pad_id, checkpoint.spec.eot_id) == (0, 1)


PIECES = ("\u2581", *"abcdefghijklmnopqrstuvwxyzABC0123456789.,!'", "\u2581a", "\u2581cat", "\u2581photo", "\u2581of")


def write_bert(folder: Path) -> None:
    """`vocab.txt` alone, as google-bert/* had it first."""
    words = sorted({word for caption in CAPTIONS for word in caption.replace(",", " ").replace(";", " ").split()})
    letters = "abcdefghijklmnopqrstuvwxyz0123456789!?.,"
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocab)), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def write_unigram(folder: Path, name: str, specials: Sequence[str], single: str) -> None:
    """XLM-R's and T5's kind: pieces with scores behind the special ones, and `single` around them."""
    pieces = [(piece, -1.0 - index / 100) for index, piece in enumerate((*specials, *PIECES))]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=specials.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    ends = [(token, index) for index, token in enumerate(specials) if token in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, "extra_ids": 0}))


def write_llama(folder: Path, **config: Any) -> None:
    """Llama's kind: BPE over pieces with bytes behind them, a beginning and no end."""
    specials = ("<unk>", "<s>", "</s>", "<pad>")
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES[:41], "\u2581c", "\u2581ca", "\u2581cat"]
    merges = [("\u2581", "c"), ("\u2581c", "a"), ("\u2581ca", "t")]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizerFast", **named}))
    edit(folder / "tokenizer_config.json", **{"padding_side": "right", **config})


def write_gemma(folder: Path) -> None:
    write_siglip2_tokenizer(folder)
    edit(folder / "tokenizer_config.json", padding_side="right")


def write_trained(folder: Path, name: str) -> None:
    """The plain class over whatever the `tokenizers` library trained, here a byte-level BPE that ends its texts."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.train_from_iterator(
        CAPTIONS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<pad>", "<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": name, "pad_token": "<pad>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def tokenizer_words(checkpoint: CheckpointTokenizer) -> dict[str, int]:
    return tokenizers.Tokenizer.from_buffer(checkpoint.tokenizer_json).get_vocab()


# How to write one, the pad token, and what ends a text.
KINDS: dict[str, tuple[Callable[[Path], None], str, str | None]] = {
    "bert": (write_bert, "[PAD]", "[SEP]"),
    "xlm-r": (
        lambda folder: write_unigram(
            folder, "XLMRobertaTokenizer", ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<s> $A </s>"
        ),
        "<pad>",
        "</s>",
    ),
    "t5": (
        lambda folder: write_unigram(folder, "T5TokenizerFast", ("<pad>", "</s>", "<unk>"), "$A </s>"),
        "<pad>",
        "</s>",
    ),
    "gemma": (write_gemma, "<pad>", "<eos>"),
    "llama": (write_llama, "<pad>", None),
    "plain": (lambda folder: write_trained(folder, "PreTrainedTokenizerFast"), "<pad>", "<end>"),
    "plain, its name of today": (lambda folder: write_trained(folder, "TokenizersBackend"), "<pad>", "<end>"),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_every_class_over_the_tokenizers_library_equal_transformers(
    kind: str, length: int, tmp_path: Path
) -> None:
    write, pad, end = KINDS[kind]
    write(tmp_path)
    checkpoint = from_checkpoint(tmp_path, family="clip", context_length=length)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    tokenizer, original = opened(checkpoint, tmp_path / "bundle"), AutoTokenizer.from_pretrained(tmp_path)
    texts = (
        *TEXTS,
        *(f"a {token} b" for token in original.all_special_tokens if token in tokenizer_words(checkpoint)),
    )
    assert tokenizer.encode(texts).tolist() == oracle_ids(original, texts, length)
    assert checkpoint.spec.pad_id == original.convert_tokens_to_ids(pad)
    assert checkpoint.spec.eot_id == (None if end is None else original.convert_tokens_to_ids(end))


def test_a_form_that_transformers_makes_ids_of_is_shipped_where_the_file_lacks_a_special_token(tmp_path: Path) -> None:
    """A `!` that pads is a token of its own to transformers, not the end of a word as `tokenizer.json` has it."""
    write_clip_tokenizer(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(tmp_path / name, pad_token="!")
    checkpoint = from_checkpoint(tmp_path, family="clip", context_length=16)
    assert checkpoint.tokenizer_json != (tmp_path / "tokenizer.json").read_bytes()
    expected = oracle_ids(CLIPTokenizer.from_pretrained(tmp_path), TEXTS, 16)
    assert opened(checkpoint, tmp_path / "bundle").encode(TEXTS).tolist() == expected


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_token_that_transformers_alone_adds_is_on_the_device_or_refused(
    known: bool, special: bool, tmp_path: Path
) -> None:
    """Named in `tokenizer_config.json`: a piece of the vocabulary, or one behind it that has an embedding, too."""
    size = write_clip_tokenizer(tmp_path)
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    name, number = next(reversed(vocabulary.items())) if known else ("catty", size)
    added = {"content": name, "special": special, "normalized": False}
    added |= dict.fromkeys(("lstrip", "rstrip", "single_word"), False)
    edit(tmp_path / "tokenizer_config.json", added_tokens_decoder={str(number): added})
    texts = [f"a {name} b", f"x{name}y", name]
    expected = oracle_ids(CLIPTokenizer.from_pretrained(tmp_path), texts, 16)
    assert any(number in ids for ids in expected)
    with (
        contextlib.nullcontext() if known else pytest.raises(CheckpointError, match="expected the ids of transformers'")
    ):
        checkpoint = from_checkpoint(tmp_path, family="clip", context_length=16, vocabulary_size=size + 1)
        assert opened(checkpoint, tmp_path / "bundle").encode(texts).tolist() == expected


@pytest.mark.parametrize("length", [16, 77, 512, 1024])
def test_a_text_that_is_cut_differs_at_any_length(length: int, tmp_path: Path) -> None:
    """transformers keeps both ends of a cut text, a device one."""
    write_clip_tokenizer(tmp_path, context_length=length)
    ends = [("<|startoftext|>", 702), ("<|endoftext|>", 703)]
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ends = [(name, tokenizer.token_to_id(name)) for name, _ in ends]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|> <|endoftext|>", special_tokens=ends
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(CheckpointError, match="expected the ids of transformers'"):
        from_checkpoint(tmp_path, family="clip", context_length=length)


def test_clips_tokenizer_json_of_transformers_4_is_shipped_as_it_is(tmp_path: Path) -> None:
    """openai/clip-*'s: its pattern does not know the special tokens."""
    write_clip_tokenizer(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    split = data["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] = split["pattern"]["Regex"].removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
    edit(tmp_path / "tokenizer.json", pre_tokenizer=data["pre_tokenizer"])
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert from_checkpoint(tmp_path, family="clip", context_length=77).tokenizer_json == content


def with_another_spiece_model(folder: Path) -> None:
    """The vocabulary of another training beside this tokenizer.json."""
    train_siglip(folder)
    write_siglip_tokenizer(folder)


def with_the_name_of_another_kind(folder: Path) -> None:
    write_trained(folder, "BertTokenizer")


def without_a_pad_token(folder: Path) -> None:
    write_llama(folder, pad_token=None)


def that_pads_on_the_left(folder: Path) -> None:
    write_llama(folder, padding_side=None)


def in_python_alone(folder: Path) -> None:
    (folder / "vocab.json").write_text('{"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer", "pad_token": "<unk>"}')
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.mark.parametrize(
    ("family", "write", "says"),
    [
        ("siglip", with_another_spiece_model, r"ids of transformers' SiglipTokenizer .* for the text '.*' \[.*\], got"),
        ("clip", with_the_name_of_another_kind, "files of a BertTokenizer that transformers reads, got: .*WordPiece"),
        ("clip", without_a_pad_token, "expected a tokenizer with a pad token, got LlamaTokenizer without one"),
        ("clip", that_pads_on_the_left, "padding_side: expected right, got 'left'"),
        ("clip", in_python_alone, "got CTRLTokenizer, which runs in Python alone"),
    ],
)
def test_a_tokenizer_that_a_device_cannot_follow_is_refused(
    family: Family, write: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        from_checkpoint(tmp_path, family=family, context_length=16)


@pytest.fixture(scope="module")
def pair(clip_of_two_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    checkpoint = from_checkpoint(clip_of_two_files, family="clip", context_length=20)
    return opened(checkpoint, tmp_path_factory.mktemp("built")), CLIPTokenizer.from_pretrained(clip_of_two_files)


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(
    text=st.text(max_size=30)
    | st.text(st.sampled_from("aeist' \u0301\u00a0<|>endoftext'SDmé1²猫\U0001f600\n"), max_size=40)
)
def test_clip_ids_equal_transformers_on_any_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    tokenizer, oracle = pair
    assert tokenizer.encode([text]).tolist() == oracle_ids(oracle, [text], 20)


def test_a_caption_cannot_end_siglips_text_early(siglip: Path, tmp_path: Path) -> None:
    """big_vision canonicalises first, so that `</s>` loses its brackets; transformers looks for the token first."""
    tokenizer = opened(from_checkpoint(siglip, family="siglip", context_length=16), tmp_path)
    assert tokenizer.encode(["a </s> b"]).tolist() == tokenizer.encode(["a s b"]).tolist()


@pytest.mark.parametrize(
    ("files", "family", "pad_id"), [("clip", "clip", 703), ("clip_of_two_files", "clip", 703), ("siglip", "siglip", 1)]
)
def test_a_cut_text_keeps_its_end_and_a_short_one_is_padded_on_the_right(
    files: str, family: Family, pad_id: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint = from_checkpoint(request.getfixturevalue(files), family=family, context_length=8)
    tokenizer = opened(checkpoint, tmp_path)
    assert checkpoint.spec.pad_id == pad_id
    long, short = tokenizer.encode(["a photo of a cat and a dog on the beach", "cat"])
    assert long[-1] == checkpoint.spec.eot_id
    assert checkpoint.spec.eot_id not in long[:-1]
    assert set(short[tokenizer.token_count("cat") :].tolist()) == {pad_id}


def test_token_count_says_when_a_text_will_be_cut(clip: Path, tmp_path: Path) -> None:
    tokenizer = opened(from_checkpoint(clip, family="clip", context_length=8), tmp_path)
    assert tokenizer.token_count("") == 2
    assert tokenizer.token_count("a photo of a cat") == 7
    assert tokenizer.token_count("a " * 200) == 202


def test_no_texts_give_no_rows(clip: Path, tmp_path: Path) -> None:
    assert opened(from_checkpoint(clip, family="clip", context_length=8), tmp_path).encode([]).shape == (0, 8)


def test_the_checkpoints_own_tokenizer_json_is_shipped_byte_for_byte(clip: Path) -> None:
    content = from_checkpoint(clip, family="clip", context_length=77).tokenizer_json
    assert content == (clip / "tokenizer.json").read_bytes()


def test_the_tokenizer_json_built_for_clip_has_the_same_bytes_each_time(clip_of_two_files: Path) -> None:
    first, second = (from_checkpoint(clip_of_two_files, family="clip", context_length=77) for _ in range(2))
    assert first == second


def test_cutting_and_padding_baked_into_the_file_do_not_count(clip: Path, tmp_path: Path) -> None:
    baked = tokenizers.Tokenizer.from_file(str(clip / "tokenizer.json"))
    baked.enable_truncation(4)
    baked.enable_padding(direction="left", length=30, pad_id=5)
    checkpoint = from_checkpoint(clip, family="clip", context_length=12)
    (tmp_path / "baked").mkdir()
    baked.save(str(tmp_path / "baked" / "tokenizer.json"))
    expected = opened(checkpoint, tmp_path).encode(TEXTS)
    np.testing.assert_array_equal(Tokenizer(checkpoint.spec, tmp_path / "baked").encode(TEXTS), expected)


@pytest.mark.parametrize("with_tokenizer_json", [True, False])
@pytest.mark.parametrize(
    ("config", "special_tokens_map", "pad_id"),
    [
        ({"pad_token": "!"}, {"pad_token": "!"}, 0),
        ({"pad_token": "!"}, {}, 703),
        ({}, {"pad_token": {"content": "!", "lstrip": False}}, 0),
        ({"pad_token": "!", "added_tokens_decoder": {"0": {"content": "!", "special": True}}}, {}, 0),
    ],
)
def test_the_padding_is_transformers(
    config: dict[str, Any], special_tokens_map: dict[str, Any], pad_id: int, with_tokenizer_json: bool, tmp_path: Path
) -> None:
    write_clip_tokenizer(tmp_path, with_tokenizer_json=with_tokenizer_json)
    edit(tmp_path / "tokenizer_config.json", **config)
    edit(tmp_path / "special_tokens_map.json", **special_tokens_map)
    assert from_checkpoint(tmp_path, family="clip", context_length=77).spec.pad_id == pad_id
    assert CLIPTokenizer.from_pretrained(tmp_path).pad_token_id == pad_id


def test_a_checkpoint_with_its_tokenizer_json_alone_has_the_familys_tokens(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((clip / "tokenizer.json").read_bytes())
    spec = from_checkpoint(tmp_path, family="clip", context_length=77).spec
    assert spec == from_checkpoint(clip, family="clip", context_length=77).spec


def test_lower_casing_follows_the_config(siglip: Path, tmp_path: Path) -> None:
    write_siglip_tokenizer(tmp_path)
    assert from_checkpoint(tmp_path, family="siglip", context_length=64).spec.lower_case
    edit(tmp_path / "tokenizer_config.json", do_lower_case=False)
    assert not from_checkpoint(tmp_path, family="siglip", context_length=64).spec.lower_case


@pytest.mark.parametrize(
    ("texts", "says"),
    [("a cat", "got one text"), (["a", 1], "got int among them"), (["a \ud800"], "lone surrogate")],
)
def test_what_is_no_text_is_an_input_error(texts: Any, says: str, clip: Path, tmp_path: Path) -> None:
    tokenizer = opened(from_checkpoint(clip, family="clip", context_length=8), tmp_path)
    with pytest.raises(InputError, match=says):
        tokenizer.encode(texts)


def without(*names: str) -> Any:
    return lambda folder: [(folder / name).unlink() for name in names]


def with_content(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


def with_keys(**changes: Any) -> Any:
    return lambda folder: edit(folder / "tokenizer_config.json", **changes)


def with_an_undefined_ending(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    edit(folder / "tokenizer.json", post_processor=data["post_processor"] | {"special_tokens": {}})


def with_a_damaged_spiece_model_alone(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"")


def without_the_ending(folder: Path) -> None:
    edit(folder / "tokenizer.json", post_processor=None)


@pytest.mark.parametrize(
    ("family", "damage", "says"),
    [
        ("clip", without("tokenizer.json", "merges.txt"), "got no merges.txt"),
        ("clip", without("tokenizer.json", "vocab.json"), "got no vocab.json"),
        ("siglip", without("tokenizer.json"), "got no tokenizer"),
        ("siglip", with_a_damaged_spiece_model_alone, "got only spiece.model"),
        ("siglip", with_content("spiece.model", b""), "files of a SiglipTokenizer that transformers reads"),
        ("clip", with_content("tokenizer.json", b"{}"), "damaged or unknown"),
        ("clip", with_content("tokenizer.json", b"\xff\xfe"), "damaged or unknown"),
        ("clip", with_content("tokenizer_config.json", b"{"), "not readable as JSON"),
        ("clip", with_content("tokenizer_config.json", b"[]"), "expected an object"),
        ("clip", with_content("special_tokens_map.json", b"\xff"), "not readable as JSON"),
        ("clip", with_keys(tokenizer_class="BertTokenizer"), "ids of transformers' BertTokenizer on a device"),
        ("clip", with_keys(tokenizer_class="HerTokenizer"), "CLIPTokenizer for a clip checkpoint, got 'HerTokenizer'"),
        ("clip", with_keys(auto_map={"AutoTokenizer": ["a.B", None]}), "auto_map: expected .* own code"),
        ("clip", with_keys(tokenizer_class=3), "got 3"),
        ("siglip", with_keys(tokenizer_class="CLIPTokenizer"), "ids of transformers' CLIPTokenizer on a device"),
        ("clip", with_keys(model_max_length=[0]), r"model_max_length: expected a whole number .*, got \[0\]"),
        ("clip", with_keys(model_max_length=7.5), r"model_max_length: expected a whole number .*, got 7\.5"),
        ("siglip", with_keys(padding_side="left"), "padding_side: expected right"),
        ("siglip", with_keys(truncation_side="left"), "truncation_side: expected right"),
        ("siglip", with_keys(pad_token="<nowhere>"), "pad_token '<nowhere>' in the vocabulary"),
        ("siglip", with_keys(pad_token=["</s>"]), "pad_token has to be either str"),
        ("siglip", with_keys(bos_token="<pad>", add_bos_token=True), "does the opposite"),
        ("siglip", with_an_undefined_ending, "damaged or unknown"),
        ("siglip", without_the_ending, "ends every text with '</s>'"),
        ("clip", without_the_ending, r"ends every text with '<\|endoftext\|>'"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_a_checkpoint_error(
    family: Family, damage: Any, says: str, tmp_path: Path
) -> None:
    (write_clip_tokenizer if family == "clip" else write_siglip_tokenizer)(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        from_checkpoint(tmp_path, family=family, context_length=64)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", b"{"),
        ("vocab.json", b"[]"),
        ("vocab.json", b'{"a": 0}'),
        ("merges.txt", b"a b c\n"),
        ("merges.txt", b"\xff"),
    ],
)
def test_damaged_clip_files_are_a_checkpoint_error(name: str, content: bytes, tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, with_tokenizer_json=False)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        from_checkpoint(tmp_path, family="clip", context_length=77)


def test_a_context_without_room_for_a_word_is_a_checkpoint_error(clip: Path) -> None:
    with pytest.raises(CheckpointError, match="at least 3 ids, got 2"):
        from_checkpoint(clip, family="clip", context_length=2)


def test_texts_are_padded_to_what_the_tokenizer_says_not_to_the_positions(tmp_path: Path) -> None:
    folder = write_siglip_checkpoint(tmp_path / "short", text={"max_position_embeddings": 16})
    write_siglip_tokenizer(folder, context_length=8)
    texts = ["a red square", "a photo of a dog", "word " * 40]
    expected = PreTrainedTokenizerFast.from_pretrained(folder)(texts, padding="max_length", truncation=True)[
        "input_ids"
    ]
    model = catalogue.load(folder)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(texts)
    assert ids.tolist() == expected
    network = SiglipModel.from_pretrained(folder)
    with torch.no_grad():
        right = network.get_text_features(torch.tensor(expected)).pooler_output
        ours = torch.cat([model.programs["encode_text"].module(torch.from_numpy(row[None])) for row in ids])
    assert torch.cosine_similarity(right, ours).min() > 1 - 1e-5


def test_a_bundle_without_its_tokenizer_is_a_checkpoint_error(clip: Path, tmp_path: Path) -> None:
    spec = from_checkpoint(clip, family="clip", context_length=77).spec
    with pytest.raises(CheckpointError, match=r"tokenizer.json: cannot be read"):
        Tokenizer(spec, tmp_path)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_damaged_tokenizer_json_is_a_checkpoint_error_or_still_works(family: Family, tmp_path: Path) -> None:
    (write_clip_tokenizer if family == "clip" else write_siglip_tokenizer)(tmp_path)
    spec = from_checkpoint(tmp_path, family=family, context_length=16).spec
    path, rng = tmp_path / "tokenizer.json", np.random.default_rng(3)
    content = path.read_bytes()
    for _ in range(100):
        damaged = bytearray(content)
        damaged[rng.integers(0, len(content))] = rng.integers(32, 127)
        path.write_bytes(bytes(damaged[: rng.integers(0, len(content))] if rng.random() < 0.3 else damaged))
        with contextlib.suppress(CheckpointError):
            assert Tokenizer(spec, tmp_path).encode(["a photo of a cat"]).shape == (1, 16)


def test_of_two_vocabularies_the_one_counts_that_transformers_reads(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path)
    assert notes(tmp_path) == ()
    before = AutoTokenizer.from_pretrained(tmp_path)("a photo")["input_ids"]
    ids = json.loads((tmp_path / "vocab.json").read_text())
    ids["a</w>"], ids["b</w>"] = ids["b</w>"], ids["a</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    assert AutoTokenizer.from_pretrained(tmp_path)("a photo")["input_ids"] == before
    (note,) = notes(tmp_path)
    assert note.startswith("texts: tokenizer.json was taken, as transformers does; vocab.json gives 'a</w>' the id")


def test_of_two_lists_of_special_tokens_the_one_counts_that_transformers_reads(tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token == "!"
    assert notes(tmp_path) == (
        "texts: special_tokens_map.json was taken, as transformers does; tokenizer_config.json differs in pad_token",
    )
