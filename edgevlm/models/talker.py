"""What the loader of a model that talks returns: components ready to be lowered, the float original beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from edgevlm.bundle.dialogue import DECODE, EMBED_TOKENS, EMBEDDINGS, ENCODE_IMAGE, LOGITS, POSITIONS, Dialogue
from edgevlm.bundle.spec import ComponentSpec, ImagePreprocessing, Source, TensorSpec
from edgevlm.graphs.program import Program, Programs
from edgevlm.inference.generator import Generator, TalkingSession
from edgevlm.inputs.rows import PIXELS, TOKEN_IDS
from edgevlm.inputs.texts import Tokenizer, without_rules
from edgevlm.models.speaking import SpeakingOriginal
from edgevlm.targets.isolation import IsolatedTokenizer


@dataclass(frozen=True)
class Talker:
    """A generator: pictures and words become positions, and these the next word.

    Attributes:
        source: Where it came from.
        image: How a picture, or a tile of one, becomes `pixels`.
        dialogue: How pictures and words become positions.
        tokenizer_json: What a bundle ships as `dialogue.tokenizer_file`.
        programs: `encode_image` takes `pixels`, float32 [1, 3, H, W] in 0..255, and answers what `embeddings` has at a
            picture's places, float32 [1, P, W], or what `decode` takes beside them. `embed_tokens` takes `token_ids`,
            int32 [1, T]. `decode` takes `embeddings`, float32 [1, T, W], and `positions`, int32 [1, T], -1 for padding,
            and answers `logits`, float32 [1, V], of the last row; its state is keys and values.
        original: The original's own float32 forward, as a session.
        notes: What a user should know about how it was read.
    """

    source: Source
    image: ImagePreprocessing
    dialogue: Dialogue
    tokenizer_json: bytes
    programs: Programs
    original: SpeakingOriginal
    notes: tuple[str, ...] = ()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its own, in another process."""
        return IsolatedTokenizer.from_bytes(without_rules(self.dialogue.tokenizer_file), self.tokenizer_json)

    @property
    def generator(self) -> Generator:
        """The float original, to be asked."""
        return self.through(self.original)

    def through(self, session: TalkingSession) -> Generator:
        """The same rules, by which a session of the same components is asked."""
        return Generator(session, self.original.specs, self.image, self.dialogue, self.tokenizer)


class EmbedTokens(nn.Module):
    """Token ids int32 [1, T] -> rows float32 [1, T, W], with as many zeros behind each as are asked for.

    Args:
        table: Of tokens.
        behind: How many zeros.
        marked: Id of a token whose row has 1 in place of the last of them.
    """

    def __init__(self, table: nn.Embedding, behind: int = 0, marked: int | None = None) -> None:
        super().__init__()
        self.table, self.behind, self.marked = table, behind, marked

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.table(token_ids)
        if self.marked is None:
            return nn.functional.pad(rows, (0, self.behind)) if self.behind else rows
        mark = (token_ids == self.marked).to(rows.dtype).unsqueeze(-1)
        return torch.cat([nn.functional.pad(rows, (0, self.behind - 1)), mark], -1)


def assemble_programs(
    encode_image: nn.Module,
    embed_tokens: nn.Embedding,
    decode: nn.Module,
    *,
    image: ImagePreprocessing,
    seen: Sequence[TensorSpec],
    beside: bool,
    state: tuple[TensorSpec, ...],
    lengths: tuple[int, ...],
    prefix: bool = False,
    behind_words: int = 0,
    marked_token_id: int | None = None,
) -> Programs:
    """The three components, frozen and in eval mode.

    Args:
        encode_image: Its `forward(pixels)` returns what `seen` says.
        embed_tokens: The table.
        decode: Its `forward(embeddings, positions, *seen, *state)` returns logits and the new state.
        image: Size of what `encode_image` takes.
        seen: What it returns.
        beside: Whether `decode` takes that beside its embeddings, rather than among them.
        state: What `decode` keeps, zeros at first.
        lengths: How many rows `embed_tokens` and `decode` take at once, ascending.
        prefix: Whether a run of `decode` that begins a dialogue is put at once; see `ComponentSpec`.
        behind_words: How many zeros stand behind each row of a word.
        marked_token_id: Id of a token whose row has 1 in place of the last of these.
    """
    width, vocabulary = embed_tokens.embedding_dim + behind_words, embed_tokens.num_embeddings
    pixels = TensorSpec(
        PIXELS, "float32", (1, 3, image.height, image.width), "RGB, 0..255, channels first, resized and cropped"
    )
    token_ids = TensorSpec(TOKEN_IDS, "int32", (1, -1), "token ids")
    embeddings = TensorSpec(EMBEDDINGS, "float32", (1, -1, width), "rows of words and pictures")
    positions = TensorSpec(POSITIONS, "int32", (1, -1), "place of each row in the dialogue, from 0; -1 is padding")
    logits = TensorSpec(LOGITS, "float32", (1, vocabulary), "of the token behind the last row")
    longest = lengths[-1]
    ramp = torch.linspace(0, 255, 3 * image.height * image.width).reshape(pixels.shape)
    given = tuple(seen) if beside else ()
    modules = {
        ENCODE_IMAGE: encode_image,
        EMBED_TOKENS: EmbedTokens(embed_tokens, behind_words, marked_token_id),
        DECODE: decode,
    }
    for module in modules.values():
        module.eval().requires_grad_(False)
    example = (
        torch.zeros(1, longest, width),
        torch.arange(longest, dtype=torch.int32)[None],
        *(torch.zeros(each.shape) for each in (*given, *state)),
    )
    return {
        ENCODE_IMAGE: Program(ComponentSpec(ENCODE_IMAGE, (pixels,), tuple(seen)), encode_image, (ramp,)),
        EMBED_TOKENS: Program(
            ComponentSpec(EMBED_TOKENS, (token_ids,), (embeddings,), lengths),
            modules[EMBED_TOKENS],
            (torch.zeros(1, longest, dtype=torch.int32),),
        ),
        DECODE: Program(
            ComponentSpec(DECODE, (embeddings, positions, *given), (logits,), lengths, state, prefix), decode, example
        ),
    }
