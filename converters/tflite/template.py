"""A chat's literal texts as the Jinja template that LiteRT-LM writes dialogues out with."""

from __future__ import annotations

import json

from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.targets.litert_lm import PLACEHOLDER


def template(chat: Chat) -> str:
    """A chat's literal texts as a Jinja template; a message's content is a text, or pictures and texts in a list."""
    system = chat.system or Turn("", "")
    return "".join(
        (
            "{%- if messages[0].role != 'system' -%}" + _literal(chat.begin) + "{%- endif -%}",
            "{%- for message in messages -%}{%- set said = namespace(text='', picture=false) -%}",
            "{%- if message.content is string -%}{%- set said.text = message.content -%}{%- else -%}",
            "{%- for part in message.content -%}",
            "{%- if part.type == 'text' -%}{%- set said.text = said.text ~ part.text -%}{%- endif -%}",
            "{%- if part.type == 'image' -%}{%- set said.picture = true -%}{%- endif -%}",
            "{%- endfor -%}{%- endif -%}",
            "{%- if message.role == 'system' -%}" + _turn(system),
            "{%- elif message.role != 'user' -%}" + _turn(chat.assistant or Turn("", "")),
            "{%- elif said.picture -%}" + _turn(chat.user_with_picture),
            "{%- else -%}" + _turn(chat.user) + "{%- endif -%}",
            "{%- endfor -%}{%- if add_generation_prompt -%}" + _literal(chat.ask) + "{%- endif -%}",
        )
    )


def continuation(begin: str) -> str:
    """The template of a model that goes on from a text about a picture: one of each, or it is refused.

    A picture has a place whether there is one or not, so that the runtime misses it, or has one too many.

    Args:
        begin: What every text begins with.
    """
    return "".join(
        (
            "{%- if messages | length != 1 -%}",
            "{{- raise_exception('expected one message: this model has no chat template, and goes on from a text') -}}",
            "{%- endif -%}" + _literal(PLACEHOLDER + begin),
            "{%- if messages[0].content is string -%}{{- messages[0].content -}}{%- else -%}",
            "{%- for part in messages[0].content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}",
            "{%- endfor -%}{%- endif -%}",
        )
    )


def _turn(turn: Turn) -> str:
    return _literal(turn.before) + "{{- said.text -}}" + _literal(turn.after)


def _literal(text: str) -> str:
    return "{{- " + json.dumps(text, ensure_ascii=False) + " -}}" if text else ""
