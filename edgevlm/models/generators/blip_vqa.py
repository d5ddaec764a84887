"""BLIP that answers questions (Li et al., 2022, arXiv 2201.12086), made ready for export.

Three transformers: of the picture; of the question, whose rows see each other and the picture; and of the answer, which
looks at the question alone. A question is put at once, and `decode` keeps what the answer asks of it. Behind it stand
the answer's rows, the first of which, which begins every answer, takes the place of the question's last. A run of the
answer goes through the question's layers too, and nothing reads what comes of that: answers are a word or two.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import ASKED, Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing, TensorSpec
from edgevlm.errors import CheckpointError
from edgevlm.models.generators.blip import EncodeImage, Layer, looked_at, with_given
from edgevlm.models.generators.decoder import Slots
from edgevlm.models.generators.parts import Parts, Pieces, keys_and_values, keys_and_values_of_picture
from edgevlm.models.layers import MASKED


class QuestionLayer(Layer):
    """A question's rows see each other, and the picture; an MLP; a norm behind each.

    Args:
        layer: transformers' `BlipTextLayer`, whose weights are taken.
    """

    def forward(self, rows: Tensor, padding: Tensor, seen: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """Rows [1, T, W], -inf at those of padding [1, 1, T], the picture's keys and values -> rows."""
        rows = self.look_back(rows, self.split(self.key(rows)), self.split(self.value(rows)), padding)
        return self.think(self.look_at(rows, seen[0].squeeze(0), seen[1].squeeze(0)))


class Places:
    """Where the rows of one run stand: all of one that begins a dialogue are the question's, all others the answer's.

    Args:
        positions: int32 [1, T], from 0; -1 is padding.
        slots: int32 [S], 0 to S - 1.
        asked: [1, S], 1 where the question stands, of the runs before.
    """

    def __init__(self, positions: Tensor, slots: Tensor, asked: Tensor) -> None:
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
        first = self.asked.sum(-1, keepdim=True) - 1  # where the answer begins
        self.in_answer = (self.in_question - first.to(positions.dtype)).clamp(min=0)
        """The same if it is the answer's."""
        self.question = Slots(hot * self.begins, ((1 - self.asked) * MASKED).unsqueeze(1))
        unseen = (slots > column).float() + (slots < first).float().unsqueeze(1)
        written = 1 - self.begins + self.begins * self.newest.transpose(1, 2)
        self.answer = Slots(hot * written, unseen.clamp(max=1) * MASKED)


class AnswerLayer(Layer):
    """An answer's rows see those before them, and the question; an MLP; a norm behind each.

    Args:
        layer: transformers' `BlipTextLayer`, whose weights are taken.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        cross = layer.crossattention.self
        self.cross_key, self.cross_value = cross.key, cross.value

    def forward(  # type: ignore[override]
        self, rows: Tensor, question: Tensor, places: Places, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Rows of both [1, T, W], state [1, heads, S, D] of the answer and the question -> rows, state."""
        keys, values, asked_keys, asked_values = (each.squeeze(0) for each in state)
        keys = places.answer.write(keys, self.split(self.key(rows)))
        values = places.answer.write(values, self.split(self.value(rows)))
        asked_keys = places.question.write(asked_keys, self.split(self.cross_key(question)))
        asked_values = places.question.write(asked_values, self.split(self.cross_value(question)))
        rows = self.look_back(rows, keys, values, places.answer.mask)
        rows = self.think(self.look_at(rows, asked_keys, asked_values, places.question.mask))
        return rows, *(each.unsqueeze(0) for each in (keys, values, asked_keys, asked_values))


class Decoder(nn.Module):
    """Embeddings float32 [1, T, 2W], positions int32 [1, T], the picture's keys and values, state -> logits, state.

    A row has a word as the question reads it, and as the answer does. Keys and values of the picture are those of
    `EncodeImage`. The state is keys and values of the answer, of each layer in turn, then the question's, float32
    [1, heads, S, D], and where the question stands, [1, 1, S, 1]; zeros at first. Logits are float32 [1, V].

    Args:
        network: transformers' `BlipForQuestionAnswering`.
        context_length: S, the positions that the state holds.
        where: The text config's place, for errors.

    Raises:
        CheckpointError: fewer positions than asked for, or a transformer that does not look at what is beside it.
    """

    prefix = True
    slots: Tensor
    question_positions: Tensor
    answer_positions: Tensor
    first: Tensor

    def __init__(self, network: Any, context_length: int, *, where: str) -> None:
        super().__init__()
        config, asks, says = network.config.text_config, network.text_encoder, network.text_decoder
        if context_length > config.max_position_embeddings:
            raise CheckpointError(
                f"{where}: expected a context of at most max_position_embeddings, {config.max_position_embeddings:,}, "
                f"got {context_length:,}"
            )
        if not config.is_decoder:
            raise CheckpointError(f"{where}.is_decoder: expected true, got false: it would not look at pictures")
        self.width: int = config.hidden_size
        for name, embeddings in (("question", asks.embeddings), ("answer", says.bert.embeddings)):
            table = embeddings.position_embeddings.weight.detach()[:context_length]
            self.register_buffer(f"{name}_positions", table)
        self.register_buffer("slots", torch.arange(context_length, dtype=torch.int32))
        words = says.bert.embeddings.word_embeddings.weight.detach()
        self.register_buffer("first", words[config.bos_token_id].clone())
        self.question_norm: nn.LayerNorm = asks.embeddings.LayerNorm
        self.question_layers = nn.ModuleList(QuestionLayer(layer) for layer in asks.encoder.layer)
        self.answer_norm: nn.LayerNorm = says.bert.embeddings.LayerNorm
        self.answer_layers = nn.ModuleList(AnswerLayer(layer) for layer in says.bert.encoder.layer)
        self.head: nn.Module = says.cls

    @property
    def state(self) -> tuple[TensorSpec, ...]:
        """See the class."""
        layer: AnswerLayer = self.answer_layers[0]  # type: ignore[assignment]
        slots = len(self.slots)
        kept = keys_and_values(2 * len(self.answer_layers), (1, layer.heads, slots, layer.size))
        return (*kept, TensorSpec(ASKED, "float32", (1, 1, slots, 1), "1 where the question stands"))

    def forward(self, embeddings: Tensor, positions: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        count = 2 * len(self.question_layers)
        picture, state = given[:count], given[count:]
        places = Places(positions, self.slots, state[-1].flatten(1))
        asked = places.asked.reshape(state[-1].shape)  # early: coremltools fails on a state that is written last of all
        look_up = nn.functional.embedding
        rows = self.question_norm(embeddings[..., : self.width] + look_up(places.in_question, self.question_positions))
        for number, layer in enumerate(self.question_layers):
            rows = layer(rows, places.padding, picture[2 * number : 2 * number + 2])
        question, of_answer, of_question = rows, list[Tensor](), list[Tensor]()
        rows = embeddings[..., self.width :] * (1 - places.begins) + self.first * places.begins
        rows = self.answer_norm(rows + look_up(places.in_answer, self.answer_positions))
        for number, layer in enumerate(self.answer_layers):
            two = slice(2 * number, 2 * number + 2)
            behind = slice(two.start + 2 * len(self.answer_layers), two.stop + 2 * len(self.answer_layers))
            rows, *kept = layer(rows, question, places, *state[two], *state[behind])
            of_answer += kept[:2]
            of_question += kept[2:]
        return self.head(places.newest @ rows).squeeze(1), *of_answer, *of_question, asked


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `BlipForQuestionAnswering`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: a transformer that is not carried; see `Decoder`.
    """
    text, layers = network.config.text_config, network.text_encoder.encoder.layer
    decode = Decoder(network, context_length, where=f"{where}: text_config")
    encode_image = EncodeImage(network.vision_model, layers, image)
    tables = [each.embeddings.word_embeddings for each in (network.text_encoder, network.text_decoder.bert)]
    rows = torch.cat([each.weight.detach() for each in tables], 1)
    table = nn.Embedding(len(rows), rows.shape[1], _weight=rows)
    _, heads, _, size = decode.state[0].shape
    return Parts(
        encode_image=encode_image,
        seen=keys_and_values_of_picture(len(layers), (1, heads, encode_image.tower.rows, size)),
        embed_tokens=table,
        decode=decode,
        original={
            "encode_image": looked_at(network.vision_model, layers, image),
            "embed_tokens": lambda token_ids: torch.cat([each(token_ids) for each in tables], -1),
        },
        original_decode=_original_decode(network),
        image_token_id=None,
        pieces=Pieces(),
        begin_ids=(),
        end_ids=(text.sep_token_id,),
        talks=False,
        describe="what is in the picture?",
        asked=_asked,
    )


def _asked(token: str, tokenizer: Any) -> Chat:
    """As transformers' `BlipProcessor` writes a question."""
    turn = Turn(str(tokenizer.cls_token), str(tokenizer.sep_token))
    return Chat(begin="", system=None, user=turn, user_with_picture=turn, assistant=None, ask="")


def _original_decode(network: Any) -> Any:
    """transformers' own run of both transformers: a dialogue's first rows are the question's.

    In the cache of the answer stand as many rows before its first as the question has before its last, which a mask
    hides: so both have the same places.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    asks, says, text = network.text_encoder, network.text_decoder, network.config.text_config

    def decode(cache: Any, embeddings: Tensor, positions: Tensor, *picture: Tensor) -> Tensor:
        as_question, as_answer = embeddings.chunk(2, -1)
        beside = embeddings.new_zeros(1, 1, text.encoder_hidden_size)  # asked for, not read
        if not cache.get_seq_length():
            cache.question = asks(
                inputs_embeds=as_question.clone(),  # to which the class adds positions in place
                position_ids=positions,
                encoder_hidden_states=beside,
                cache=with_given(DynamicCache(), picture),
            ).last_hidden_state
            hidden = (1, text.num_attention_heads, positions.shape[1] - 1, text.hidden_size // text.num_attention_heads)
            for layer in range(text.num_hidden_layers):
                cache.update(embeddings.new_zeros(hidden), embeddings.new_zeros(hidden), layer)
            first = torch.full((1, 1), text.bos_token_id)
            as_answer, positions = says.bert.embeddings.word_embeddings(first), positions[:, -1:]
        before = cache.question.shape[1] - 1
        seen = torch.arange(int(positions[0, -1]) + 1)[None] >= before
        found = says.bert(
            inputs_embeds=as_answer.clone(),
            position_ids=positions - before,
            attention_mask=seen.long(),
            encoder_hidden_states=cache.question,
            cache=EncoderDecoderCache(cache, DynamicCache()),
            use_cache=True,
            is_decoder=True,
        )
        return says.cls(found.last_hidden_state[:, -1:]).squeeze(1)  # type: ignore[no-any-return]

    return decode
