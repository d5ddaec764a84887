"""How a dialogue becomes ids: written out in literal pieces, its pictures spelled, then tokenized as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgevlm.bundle.dialogue import Chat, Dialogue, Spelling
from edgevlm.errors import InputError

Role = Literal["system", "user", "assistant"]
_BEFORE = (".", "a", "0", "\n")
"""What a further question is tokenized behind: the first whose ids stay the same."""


@dataclass(frozen=True)
class Message:
    """What somebody says in a dialogue.

    Attributes:
        role: Who: `system` comes first, or not at all; then `user` and `assistant` in turn.
        text: What.
        pictures: How many pictures come before the text; only a user shows any.
    """

    role: Role
    text: str
    pictures: int = 0


@dataclass(frozen=True)
class Cut:
    """How many tiles a picture was cut into, beside the whole; 0 rows of 0 where it was not."""

    rows: int = 0
    columns: int = 0


class Ids(Protocol):
    """What makes ids of texts without adding special ones, such as `edgevlm.inputs.texts.Tokenizer`."""

    def pieces(self, text: str) -> list[int]: ...


@dataclass(frozen=True)
class Written:
    """A dialogue as ids.

    Attributes:
        text: Written out, pictures spelled.
        ids: Of the text, `Dialogue.begin_ids` before it.
        places: Indices into `ids` of the rows of pictures, in the order of the pictures' tiles.
    """

    text: str
    ids: tuple[int, ...]
    places: tuple[int, ...] = field(default=())


def write(dialogue: Dialogue, messages: Sequence[Message], cuts: Sequence[Cut], tokenizer: Ids) -> Written:
    """The ids that a model is asked with.

    Args:
        dialogue: The model's rules.
        messages: What was said, the last by the user.
        cuts: Of every picture, in the order of the messages.
        tokenizer: The model's.

    Raises:
        InputError: messages in another order, more than one picture in one of them, a text that `checked` refuses, or
            more of a dialogue than the model was made for.
    """
    for message in messages:
        checked(message.text, dialogue.spelling)
    if dialogue.chat is None:
        (message,) = _only(messages)
        text = message.text
    else:
        text = render(dialogue.chat, messages)
    if dialogue.spelling is not None:
        text = spell(text, dialogue.spelling, cuts)
    ids = (*dialogue.begin_ids, *tokenizer.pieces(text))
    token_id = None if dialogue.spelling is None else dialogue.spelling.token_id
    return Written(text, ids, tuple(place for place, each in enumerate(ids) if each == token_id))


def go_on(dialogue: Dialogue, question: str, tokenizer: Ids) -> list[int]:
    """The ids that follow an answer, where a dialogue goes on with another question.

    Some tokenizers put a mark before every text. So the new part is tokenized behind a letter, whose ids are left out.

    Raises:
        InputError: see `checked`; or the model has no chat template.
    """
    chat = dialogue.chat
    if chat is None or chat.assistant is None:
        raise one_question(dialogue)
    text = chat.assistant.after + chat.user.before + checked(question, dialogue.spelling) + chat.user.after + chat.ask
    for before in _BEFORE:
        alone, whole = tokenizer.pieces(before), tokenizer.pieces(before + text)
        if whole[: len(alone)] == alone:
            return whole[len(alone) :]
    return tokenizer.pieces(text)


def one_question(dialogue: Dialogue) -> InputError:
    """What is said to a further question, of a model that answers one."""
    about = "has no chat template, and describes a picture" if dialogue.chat is None else "was made for one a picture"
    return InputError(f"expected one question: this model {about}", hint="begin a new conversation")


def checked(text: object, spelling: Spelling | None) -> str:
    """What somebody says, or a model might.

    Raises:
        InputError: no text, no valid Unicode, or the token that stands for a picture in it.
    """
    if not isinstance(text, str):
        raise InputError(f"expected a text, got {type(text).__name__}")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InputError(f"expected valid Unicode, got a lone surrogate in {text[:60]!r}")
    if spelling is not None and spelling.token in text:
        raise InputError(
            f"expected texts without {spelling.token}, which stands for a picture, got one in {text[:60]!r}",
            hint="give the picture itself",
        )
    return text


def render(chat: Chat, messages: Sequence[Message], *, ask: bool = True) -> str:
    """A dialogue written out, each picture as its token.

    >>> render(chat, [Message("user", "What is this?", pictures=1)])
    'USER: <image>\\nWhat is this? ASSISTANT:'

    Args:
        chat: The model's template.
        messages: What was said.
        ask: Whether the answer's opening follows.

    Raises:
        InputError: messages in another order, more than one picture in one of them, or a system text where the model's
            template has no place for one.
    """
    parts: list[str] = []
    expected: tuple[Role, ...] = ("system", "user")
    for message in messages:
        if message.role not in expected:
            raise InputError(f"expected a message of {' or '.join(expected)}, got one of {message.role}")
        if message.pictures > (1 if message.role == "user" else 0):
            raise InputError(
                f"expected at most one picture, in a message of the user, got {message.pictures} in one of "
                f"{message.role}"
            )
        if not parts and message.role != "system":
            parts.append(chat.begin)
        turn = chat.user_with_picture if message.pictures else getattr(chat, message.role)
        if turn is None and message.role == "assistant":
            raise InputError("expected one question, got an answer: this model was made for one question a picture")
        if turn is None:
            raise InputError(
                "expected no system text: this model's chat template has no place for one",
                hint="say it at the beginning of the question",
            )
        parts += [turn.before, message.text, turn.after]
        expected = ("user",) if message.role == "system" else ("assistant",) if message.role == "user" else ("user",)
    if ask and expected != ("assistant",):
        raise InputError("expected a dialogue that ends with a question of the user")
    return "".join(parts) + (chat.ask if ask else "")


def spell(text: str, spelling: Spelling, cuts: Sequence[Cut]) -> str:
    """A written-out dialogue with every picture's token replaced by what stands for that picture.

    Raises:
        InputError: other pictures than there are tokens.
    """
    before, *behind = text.split(spelling.token)
    if len(behind) != len(cuts):
        wanted = {0: "no picture", 1: "one picture"}.get(len(behind), f"{len(behind)} pictures")
        raise InputError(f"expected {wanted}, as the dialogue shows, got {len(cuts) or 'none'}")
    return before + "".join(_spell_one(spelling, cut) + rest for cut, rest in zip(cuts, behind, strict=True))


def _spell_one(spelling: Spelling, cut: Cut) -> str:
    tokens = spelling.token * spelling.positions
    parts: list[str] = []
    for row in range(cut.rows):
        for column in range(cut.columns):
            place = spelling.tile.replace("{row}", str(row + 1)).replace("{column}", str(column + 1))
            parts += [place, tokens]
        parts.append(spelling.end_of_row)
    if cut.rows:
        parts.append(spelling.end_of_tiles)
    return "".join([*parts, spelling.whole.before, tokens, spelling.whole.after])


def _only(messages: Sequence[Message]) -> Sequence[Message]:
    if len(messages) != 1 or messages[0].role != "user":
        raise InputError(
            "expected one text of the user: this model has no chat template, and goes on from a text",
            hint="a captioner takes the beginning of its caption, or nothing",
        )
    return messages
