"""How a checkpoint writes dialogues out: its Jinja template, said in literal pieces, and held against it.

No device runs Jinja. The template is rendered at conversion with marks in place of what is said, and the text around
these is what the manifest carries. A template that does more than that, such as to trim what is said or to number the
turns, gives other text on some dialogue: it is refused, by that dialogue.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgevlm import schema
from edgevlm.bundle.dialogue import Chat, Turn
from edgevlm.errors import CheckpointError
from edgevlm.inputs.chat import Message, render
from edgevlm.models.checkpoints.files import read_json
from edgevlm.targets.isolation import render_template

Render = Callable[[Sequence[Message], bool], str]
"""What the template makes of messages, with the answer's opening or without."""

# Of a private use area: no template has them, and nobody writes them.
_SYSTEM, _ONE, _TWO, _ANSWER = "\ue000S", "\ue001U", "\ue002V", "\ue003A"
_WORDS = (
    "What is it?",
    " leading",
    "trailing ",
    "two\nlines",
    "",
    "na\u00efve \U0001f600",
    "{{ braces }} <b>&amp;</b>",
    "USER: hello ASSISTANT: hello",
)


def find_template(folder: Path) -> str | None:
    """The checkpoint's own chat template; None where it has none.

    Looked for where transformers' processors look, in `processor_config.json`, `chat_template.json` and
    `chat_template.jinja`, of which the first that has one counts; then where its tokenizers do, in
    `tokenizer_config.json`.

    Raises:
        CheckpointError: a file is damaged, or has several templates and none is the default.
    """
    return next((template for _, template in _templates(folder)), None)


def notes(folder: Path) -> tuple[str, ...]:
    """Which file's template was taken, where two differ."""
    found = list(_templates(folder))
    differing = ", ".join(name for name, template in found if template != found[0][1])
    if not differing:
        return ()
    return (f"dialogue: the chat template of {found[0][0]} was taken, as transformers does; another is in {differing}",)


def _templates(folder: Path) -> Iterator[tuple[str, str]]:
    """The files that have a template, the one that counts first, each with its template."""
    for name in ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        if name.endswith(".jinja"):
            yield (
                name,
                schema.read_text(path, "text", error=CheckpointError, hint="download it again", encoding="utf-8"),
            )
            continue
        found = read_json(path).get("chat_template")
        if isinstance(found, list):
            found = {str(each.get("name")): each.get("template") for each in found if isinstance(each, Mapping)}
        if isinstance(found, Mapping):
            found = found.get("default", found)
        if isinstance(found, str):
            yield name, found
        elif found:
            raise CheckpointError(
                f"{path}: chat_template: expected a text, or several of which one is called default, got "
                f"{type(found).__name__}"
            )


def read_chat(template: str, token: str, words: Mapping[str, Any], where: str) -> Chat:
    """The literal pieces of a template.

    Args:
        template: In Jinja.
        token: What it writes for a picture.
        words: Of the tokenizer, such as `bos_token`, which templates may name.
        where: The template's place, for errors.

    Raises:
        CheckpointError: the template fails, says nothing of pictures, or cannot be said in literal pieces.
    """

    def made(messages: Sequence[Message], to_answer: bool) -> str:
        return render_template(template, where, to_conversation(messages), words, to_answer=to_answer)

    try:
        chat = _derive(made)
    except ValueError as error:
        raise CheckpointError(
            f"{where}: expected a chat template that writes what is said between literal texts, got one that does not: "
            f"a mark of what is said is missing, or is there twice ({error})",
            hint=_HINT,
        ) from error
    if token not in chat.user_with_picture.before:
        raise CheckpointError(
            f"{where}: expected a chat template that writes {token} for a picture, before the question, got "
            f"{chat.user_with_picture.before!r}",
            hint="take the template of the checkpoint that this one was tuned from",
        )
    for messages in dialogues(with_system=chat.system is not None):
        expected, got = made(messages, True), render(chat, messages)
        if expected != got:
            raise CheckpointError(
                f"{where}: expected a chat template that can be said in literal texts, got one that writes "
                f"{_shortened(expected)!r} where literal texts would be {_shortened(got)!r}",
                hint=_HINT,
            )
    return chat


_HINT = (
    "no device runs Jinja; a bundle carries literal text around what is said. Simplify the template: no trimming, no "
    "counting, no conditions on what is said"
)


def dialogues(*, with_system: bool) -> Iterator[list[Message]]:
    """Thirty or more dialogues: with a system text and without, of one to three turns, pictures, awkward texts."""
    words = itertools.cycle(_WORDS)
    for system in (None, "Be brief.", " s ") if with_system else (None, None, None):
        for turns in (1, 2, 3):
            for pictures in itertools.product((0, 1), repeat=min(turns, 2)):
                messages = [] if system is None else [Message("system", system)]
                for number in range(turns):
                    shown = pictures[number] if number < len(pictures) else 0
                    messages.append(Message("user", next(words), shown))
                    if number < turns - 1:
                        messages.append(Message("assistant", next(words)))
                yield messages


def to_conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as transformers' processors take them."""
    return [
        {
            "role": message.role,
            "content": [*([{"type": "image"}] * message.pictures), {"type": "text", "text": message.text}],
        }
        for message in messages
    ]


def _derive(made: Render) -> Chat:
    """The pieces around marks; ValueError where a mark is not there once."""
    user, answer = Message("user", _ONE), Message("assistant", _ANSWER)
    three = [user, answer, Message("user", _TWO)]
    (_, behind_user), (_, behind_answer) = (
        _parts(made([user], False), _ONE),
        _parts(made([user, answer], False), _ANSWER),
    )
    begin, rest = _parts(made(three, False), _ONE)
    between, rest = _parts(rest, _ANSWER)
    again, _ = _parts(rest, _TWO)
    before_user, before_answer = _without(again, behind_answer), _without(between, behind_user)
    shown = made([user, answer, Message("user", _TWO, pictures=1)], False)
    before_picture, behind_picture = _parts(_parts(shown, _ANSWER)[1], _TWO)
    system: Turn | None = None
    try:
        before_system, rest = _parts(made([Message("system", _SYSTEM), user], False), _SYSTEM)
        behind_system = _parts(rest, _ONE)[0]
        system = Turn(before_system, behind_system.removesuffix(before_user))
    except (CheckpointError, ValueError):  # some templates refuse a system text, or leave it out
        pass
    return Chat(
        begin=begin.removesuffix(before_user),
        system=system,
        user=Turn(before_user, behind_user),
        user_with_picture=Turn(_without(before_picture, behind_answer), behind_picture),
        assistant=Turn(before_answer, behind_answer),
        ask=_without(made(three, True), made(three, False)),
    )


def _parts(text: str, mark: str) -> tuple[str, str]:
    before, behind = text.split(mark)
    return before, behind


def _without(text: str, beginning: str) -> str:
    if not text.startswith(beginning):
        raise ValueError(f"{_shortened(text)!r} does not begin with {_shortened(beginning)!r}")
    return text[len(beginning) :]


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:60]} ... {text[-50:]}"
