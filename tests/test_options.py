"""What several commands take, and that all take it alike."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from edgevlm.cli import main
from edgevlm.commands.options import Share, Whole, whole_numbers
from edgevlm.errors import InputError


def shares() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command that takes a share."""
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, Share):
                yield f"{name} {option.opts[0]}", option


SHARES = dict(shares())


def test_every_share_is_one() -> None:
    assert set(SHARES) == {
        *("bench --limit", "bench --time-limit", "tune --max-drop"),
        *("prune --heads", "prune --mlp", "prune --channels"),
        *("distill --max-unreadable", "evaluate --max-unreadable"),
    }


@pytest.mark.parametrize("name", SHARES)
def test_a_percentage_is_written_alike_everywhere(name: str) -> None:
    option = SHARES[name]
    context = click.Context(click.Command("command"))

    def value(text: str) -> float:
        found: float = option.type_cast_value(context, text)
        return found

    assert value("5%") == value(" 5 %") == 0.05
    assert value("0") == value("0%") == 0
    assert str(option.default).endswith("%")
    assert "PERCENT%" in (option.get_help_record(context) or ("",))[0]
    for ambiguous, said in (("5", "write 5%$"), ("1", "write 1%, or 100%$"), ("1.0", "write 1%, or 100%$")):
        with pytest.raises(click.BadParameter, match=said):
            value(ambiguous)
    for wrong in ("many", "%", "", "nan", "inf%", "-1%", "-0.01", "1001%", "5%%", "1/2"):
        with pytest.raises(click.BadParameter, match="expected"):
            value(wrong)


def test_a_share_may_be_written_as_one_unless_people_would_mean_another() -> None:
    def value(text: str, kind: Share) -> float:
        return kind.convert(text, None, None)

    assert value("0.05", Share()) == 0.05
    with pytest.raises(click.BadParameter, match=r"write 0.5%, or 50%"):
        value("0.5", Share(signed=True))
    assert value("100%", Share()) == 1
    with pytest.raises(click.BadParameter, match="less than 100%"):
        value("100%", Share(below=True))
    assert value("250%", Share(10)) == 2.5


@pytest.mark.parametrize(
    "text", ["", "1,", "1,0", "1,many", "-1", "1.5", "\u0661", pytest.param("9" * 5_000, id="5,000 digits")]
)
def test_numbers_with_commas_between_them_are_whole_and_of_some_digits(text: str) -> None:
    assert whole_numbers("--shots", " 1, 64,5", "1,5") == (1, 64, 5)
    with pytest.raises(InputError) as caught:
        whole_numbers("--shots", text, "1,5")
    expected = "--shots: expected whole numbers of at least 1 with commas between them, such as 1,5, got "
    assert caught.value.message == f"{expected}{text!r:.60}"


def test_every_whole_number_has_two_ends() -> None:
    found = 0
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option.type, click.types.IntParamType):
                found += 1
                assert isinstance(option.type, Whole), f"{name} {option.opts[0]}"
                for text in ("99999999999999999999", "-99999999999999999999", "9" * 4000):
                    with pytest.raises(click.BadParameter, match="expected a whole number from"):
                        option.type.convert(text, None, None)
                with pytest.raises(click.BadParameter):
                    option.type.convert("9" * 5000, None, None)  # more digits than Python reads
    assert found > 20


def test_a_whole_number_is_told_with_its_ends() -> None:
    assert Whole(1, 1024).convert("1024", None, None) == 1024
    with pytest.raises(click.BadParameter, match="expected a whole number from 1 to 1,024, got 1025"):
        Whole(1, 1024).convert("1025", None, None)
    with pytest.raises(click.BadParameter, match="from 1 to 1,024, got one of 60 digits"):
        Whole(1, 1024).convert("9" * 60, None, None)
    context = click.Context(click.Command("command"))
    for kind, said in ((Whole(), "[x>=1]"), (Whole(1, 1024), "[1<=x<=1024]"), (Whole(-(2**63), 2**63), "of it")):
        assert (click.Option(["--n"], type=kind, help="of it").get_help_record(context) or ("", ""))[1].endswith(said)
