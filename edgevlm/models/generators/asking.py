"""Decoders that are asked at once: all rows of a question see each other, and an answer sees the question alone.

A run that begins a dialogue is the question's: its rows go through the layers of the question, and `decode` keeps what
the answer's layers look at. Behind it stand the answer's rows, the first of which, which begin every answer, take the
places of the question's last. A run of the answer goes through the question's layers too, and nothing reads what comes
of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import ASKED
from edgevlm.bundle.spec import TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.decoder import Slots
from edgevlm.models.generators.parts import keys_and_values
from edgevlm.models.generators.post_norm import Attention, Layer
from edgevlm.models.layers import MASKED

_LONGEST = 2048
"""Of a context: rows of a question are counted in whole numbers, which float16 has none beyond that are odd."""


class Places:
    """Where the rows of one run stand: all of one that begins a dialogue are the question's, all others the answer's.

    Args:
        positions: int32 [1, T], from 0; -1 is padding.
        slots: int32 [S], 0 to S - 1.
        asked: [1, S], 1 where the question stands, of the runs before.
        begun: How many rows begin every answer.
    """

    def __init__(self, positions: Tensor, slots: Tensor, asked: Tensor, begun: int) -> None:
        column, last = positions.unsqueeze(-1), positions.amax(-1, keepdim=True)
        hot = (slots == column).float()
        self.begins = (positions[:, :1] == 0).float().unsqueeze(-1)
        """[1, 1, 1], 1 in a run of the question."""
        begins = self.begins.squeeze(-1)
        self.asked = hot.sum(1) * begins + asked * (1 - begins)
        """[1, S], 1 where the question stands."""
        self.newest = (positions == last).float().unsqueeze(1)
        """[1, 1, T]: picks the last row."""
        self.padding = (positions < 0).float().unsqueeze(1) * MASKED
        """[1, 1, T], added to scores of the question's rows among each other."""
        self.in_question = positions.clamp(min=0)
        """int32 [1, T], of each row if it is the question's."""
        first = self.asked.sum(-1, keepdim=True) - begun  # where the answer begins
        self.in_answer = (self.in_question - first.to(positions.dtype)).clamp(min=0)
        """The same if it is the answer's."""
        self.question = Slots(hot * self.begins, ((1 - self.asked) * MASKED).unsqueeze(1))
        unseen = (slots > column).float() + (slots < first).float().unsqueeze(1)
        written = 1 - self.begins + self.begins * (column >= first.unsqueeze(-1)).float()
        self.answer = Slots(hot * written, unseen.clamp(max=1) * MASKED)


class Reader(nn.Module):
    """What rows go through before the layers of the question, or of the answer: their places and a norm.

    Args:
        positions: [S, W], learned.
        norm: Behind them.
    """

    positions: Tensor

    def __init__(self, positions: Tensor, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.register_buffer("positions", positions.detach())
        self.norm = norm

    def forward(self, rows: Tensor, places: Tensor) -> Tensor:
        return self.norm(rows + nn.functional.embedding(places, self.positions))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Embeddings float32 [1, T, W or 2W], positions int32 [1, T], what is beside them, state -> logits, state.

    A row's first W numbers are a word, or a part of a picture, as the question reads it; its last W as the answer does.
    Beside them are keys and values of the picture, [1, heads, P, D], of each of the question's layers that looks at it.
    The state is keys and values of the answer, of each of its layers in turn, then the question's, float32
    [1, heads, S, D], and where the question stands, [1, 1, S, 1]; zeros at first. Logits are float32 [1, V].

    Args:
        asks, says: Before the layers.
        question_layers, answer_layers: Those of the answer make keys and values of the question.
        first: [B, W], the rows that begin every answer.
        head: Gives logits of a row.

    Raises:
        CheckpointError: a longer context than 2,048.
    """

    prefix = True
    slots: Tensor
    first: Tensor

    def __init__(
        self,
        asks: Reader,
        question_layers: Iterable[Layer],
        says: Reader,
        answer_layers: Iterable[Layer],
        first: Tensor,
        head: nn.Module,
    ) -> None:
        super().__init__()
        if len(asks.positions) > _LONGEST:
            raise CheckpointError(
                f"expected a context of at most {_LONGEST:,} positions, got {len(asks.positions):,}",
                hint=f"--context {_LONGEST}",
            )
        self.asks, self.says, self.head = asks, says, head
        self.question_layers, self.answer_layers = nn.ModuleList(question_layers), nn.ModuleList(answer_layers)
        self.register_buffer("first", first.detach().clone())
        self.register_buffer("slots", torch.arange(len(asks.positions), dtype=torch.int32))

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """See the class."""
        layer: Layer = self.answer_layers[0]  # type: ignore[assignment]
        slots = len(self.slots)
        kept = keys_and_values(2 * len(self.answer_layers), (1, layer.own.heads, slots, layer.own.size))
        return (*kept, TensorSpec(ASKED, "float32", (1, 1, slots, 1), "1 where the question stands"))

    def forward(self, embeddings: Tensor, positions: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        (begun, width), count = self.first.shape, 2 * len(self.answer_layers)
        picture, state, asked = given[: -2 * count - 1], given[-2 * count - 1 : -1], given[-1]
        places = Places(positions, self.slots, asked.flatten(1), begun)
        asked = places.asked.reshape(asked.shape)  # early: coremltools fails on a state that is written last of all
        rows = self.asks(embeddings[..., :width], places.in_question)
        for number, layer in enumerate(_layers(self.question_layers)):
            rows = layer.own(rows, *layer.own.seen(rows), places.padding)
            if layer.cross is not None:
                rows = layer.cross(rows, *(each.squeeze(0) for each in picture[2 * number : 2 * number + 2]))
            rows = layer.think(rows)
        question, of_answer, of_question = rows, list[Tensor](), list[Tensor]()
        first = nn.functional.embedding(places.in_answer.clamp(max=begun - 1), self.first)
        says = embeddings[..., -width:] * (1 - places.begins) + first * places.begins
        rows = self.says(says, places.in_answer)
        for number, layer in enumerate(_layers(self.answer_layers)):
            two, behind = slice(2 * number, 2 * number + 2), slice(count + 2 * number, count + 2 * number + 2)
            beside = tuple(
                places.question.write(before, new)
                for before, new in zip(state[behind], _looks(layer).seen(question), strict=True)
            )
            rows, *kept = layer(rows, places.answer, beside, *state[two], places.question.mask)
            of_answer += kept
            of_question += beside
        return self.head(places.newest @ rows).squeeze(1), *of_answer, *of_question, asked


def _layers(modules: nn.ModuleList) -> list[Layer]:
    return [*modules]


def _looks(layer: Layer) -> Attention:
    if layer.cross is None:
        raise ValueError("expected a layer that looks at the question")
    return layer.cross


def original_decode(
    encode: Callable[[Tensor, Tensor, tuple[Tensor, ...]], Tensor],
    answer: Callable[[Tensor, Tensor, Tensor, Any], Tensor],
    first: Tensor,
) -> Callable[..., Tensor]:
    """transformers' own run of both parts: a dialogue's first rows are the question's.

    Args:
        encode: Rows of a question, their places and what is beside them -> its last layer's rows.
        answer: Rows of an answer, their places [1, T], the question's rows and a cache of both -> logits of the last.
        first: [1, B, W], rows that begin every answer.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    def decode(cache: Any, embeddings: Tensor, positions: Tensor, *picture: Tensor) -> Tensor:
        begins = cache.get_seq_length() == 0
        if begins:
            cache.question, cache.answer = encode(embeddings, positions, picture), DynamicCache()
        nothing = embeddings.new_zeros(1, 1, positions.shape[1], 1)
        cache.update(nothing, nothing, 0)  # it counts the places of both
        begun = first.shape[1]
        places = torch.arange(begun)[None] if begins else positions - (cache.question.shape[1] - begun)
        beyond = cache.answer.get_seq_length() - int(places[0, 0])
        if beyond:
            cache.answer.crop(-beyond)
        both = EncoderDecoderCache(cache.answer, DynamicCache())
        return answer(first if begins else embeddings, places, cache.question, both)

    return decode
