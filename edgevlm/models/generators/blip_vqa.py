"""BLIP that answers questions (Li et al., 2022, arXiv 2201.12086), made ready for export.

A vision transformer, and BERT twice: as an encoder of the question that looks at the picture from every layer, and as a
decoder of the answer that looks at the question; each has a table of words of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.bundle.spec import ImagePreprocessing
from edgevlm.models.generators.asking import Decoder, Reader, original_decode
from edgevlm.models.generators.blip import EncodeImage, looked_at, with_given
from edgevlm.models.generators.parts import Parts, Pieces, check_context, keys_and_values_of_picture, token_of
from edgevlm.models.generators.post_norm import of_bert


def take_apart(network: Any, image: ImagePreprocessing, context_length: int, *, where: str) -> Parts:
    """The network's parts.

    Args:
        network: transformers' `BlipForQuestionAnswering`.
        image: Size and normalisation of the pixels.
        context_length: Positions that the state holds.
        where: The config's file, for errors.

    Raises:
        CheckpointError: fewer positions than asked for.
    """
    text, asks, says = network.config.text_config, network.text_encoder, network.text_decoder
    check_context(context_length, text.max_position_embeddings, f"{where}: text_config")
    layers, parts = asks.encoder.layer, (asks.embeddings, says.bert.embeddings)
    tables = [each.word_embeddings for each in parts]
    rows = torch.cat([each.weight.detach() for each in tables], 1)
    words = nn.Embedding(len(rows), rows.shape[1], _weight=rows)
    readers = [Reader(each.position_embeddings.weight[:context_length], each.LayerNorm) for each in parts]
    decode = Decoder(
        readers[0],
        [of_bert(layer, looks=False) for layer in layers],
        readers[1],
        [of_bert(layer, looks=True) for layer in says.bert.encoder.layer],
        tables[1].weight[text.bos_token_id][None],
        says.cls,
    )
    encode_image = EncodeImage(network.vision_model, layers, image)
    _, heads, _, size = decode.state[0].shape
    return Parts(
        encode_image=encode_image,
        seen=keys_and_values_of_picture(len(layers), (1, heads, encode_image.tower.rows, size)),
        embed_tokens=words,
        decode=decode,
        original={
            "encode_image": looked_at(network.vision_model, layers, image),
            "embed_tokens": words,
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
    turn = Turn(token_of(tokenizer, "cls_token"), token_of(tokenizer, "sep_token"))
    return Chat(begin="", system=None, user=turn, user_with_picture=turn, assistant=None, ask="")


def _original_decode(network: Any) -> Any:
    """transformers' own run of both transformers."""
    from transformers import DynamicCache

    asks, says, text = network.text_encoder, network.text_decoder, network.config.text_config

    def encode(rows: Tensor, positions: Tensor, picture: tuple[Tensor, ...]) -> Tensor:
        return asks(  # type: ignore[no-any-return]
            inputs_embeds=rows[..., : text.hidden_size].clone(),  # to which the class adds positions in place
            position_ids=positions,
            encoder_hidden_states=rows.new_zeros(1, 1, text.encoder_hidden_size),  # asked for, not read
            cache=with_given(DynamicCache(), picture),
        ).last_hidden_state

    def answer(rows: Tensor, places: Tensor, question: Tensor, cache: Any) -> Tensor:
        found = says.bert(
            inputs_embeds=rows[..., -text.hidden_size :].clone(),
            position_ids=places,
            encoder_hidden_states=question,
            cache=cache,
            use_cache=True,
            is_decoder=True,
        )
        return says.cls(found.last_hidden_state[:, -1:]).squeeze(1)  # type: ignore[no-any-return]

    words = says.bert.embeddings.word_embeddings.weight.detach()
    return original_decode(encode, answer, words[text.bos_token_id][None, None])
