"""The built-in models' tokenizer."""

from __future__ import annotations

import json

from tokenizers import Tokenizer

from edgevlm.data.captions import vocabulary


def build_tokenizer(vocabulary_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of CLIP's kind, in which every caption word is one token and no text is unknown."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[start, end, *alphabet, *(f"{letter}</w>" for letter in alphabet)],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for word in vocabulary() for _ in range(4)], trainer)
    tokenizer = _without_byte_specials(tokenizer, (start, end))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 0), (end, 1)]
    )
    return tokenizer


def _without_byte_specials(tokenizer: Tokenizer, specials: tuple[str, ...]) -> Tokenizer:
    # The trainer keeps a token it never meets only as a special one; in use only the two markers are special.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))
