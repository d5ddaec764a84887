"""Scores of captions and answers: against the reference implementation, and against values worked out by hand."""

from __future__ import annotations

import contextlib
import doctest
import io
import math
import random

import pytest

from edgevlm.errors import DataError
from edgevlm.evaluation import answer_scores, caption_scores
from edgevlm.evaluation.answer_scores import anls, exact, normalise, relaxed, score_yes_no, vqa_accuracy
from edgevlm.evaluation.caption_scores import score_captions, tokens

WORDS = [
    "a",
    "the",
    "red",
    "blue",
    "circle",
    "star",
    "two",
    "left",
    "of",
    "right",
    "small",
    "dog",
    "on",
    "grass",
    "runs",
]


@pytest.mark.parametrize("module", [answer_scores, caption_scores])
def test_examples_are_true(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_captions_score_as_the_reference_implementation_scores_them(seed: int) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(seed)

    def text(words: list[str]) -> str:
        return " ".join(rng.choices(words, k=rng.randint(1, 12)))

    few = WORDS[: rng.choice((4, 8, 15))]
    known = {str(number): [text(few) for _ in range(rng.randint(1, 5))] for number in range(rng.randint(1, 12))}
    said = {key: rng.choice(each) if rng.random() < 0.3 else text(WORDS) for key, each in known.items()}
    found = score_captions(said, known)
    with contextlib.redirect_stdout(io.StringIO()):
        given = {key: [each] for key, each in said.items()}
        cider, each_cider = Cider().compute_score(known, given)
        bleu, _ = Bleu(4).compute_score(known, given)
        rouge, each_rouge = Rouge().compute_score(known, given)
    assert found.cider_d == pytest.approx(cider, abs=1e-9)
    assert [*found.each_cider_d.values()] == pytest.approx([*each_cider], abs=1e-9)
    assert found.rouge_l == pytest.approx(rouge, abs=1e-9)
    assert [*found.each_rouge_l.values()] == pytest.approx([*each_rouge], abs=1e-9)
    assert found.bleu4 == pytest.approx(bleu[3], abs=1e-9)


def test_bleu_and_rouge_are_those_worked_out_by_hand() -> None:
    found = score_captions({"1": "a red circle on grass"}, {"1": ["a red circle on the grass"]})
    # 5 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples; five words for six
    assert found.bleu4 == pytest.approx((5 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * math.exp(1 - 6 / 5), abs=1e-6)
    precision, recall = 5 / 5, 5 / 6
    assert found.rouge_l == pytest.approx((1 + 1.44) * precision * recall / (recall + 1.44 * precision))


def test_captions_without_references_are_refused() -> None:
    with pytest.raises(DataError, match=r"got none for 2\.jpg"):
        score_captions({"1.jpg": "a", "2.jpg": "b"}, {"1.jpg": ["a"], "2.jpg": []})
    with pytest.raises(DataError, match="expected captions, got none"):
        score_captions({}, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop; can't WE'VE", ["do", "n't", "stop", "ca", "n't", "we", "'ve"]),
        (
            "3.5 black-and-white cats -- at 10,000 o'clock…",
            ["3.5", "black-and-white", "cats", "at", "10,000", "o'clock"],
        ),
        ("", []),
    ],
)
def test_words_are_cut_much_as_the_treebank_cuts_them(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("answer", "people", "expected"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("no", ["yes"] * 10, 0.0),
        ("2", ["2"] + ["3"] * 9, 9 * (1 / 3) / 10),  # the one who said so is left out once
        ("2", ["2"] * 2 + ["3"] * 8, (8 * 2 / 3 + 2 * 1 / 3) / 10),
        ("Two.", ["2"] * 3 + ["3"] * 7, (7 * 1 + 3 * 2 / 3) / 10),
        ("two", ["2"] * 4 + ["3"] * 6, 1.0),
    ],
)
def test_vqa_counts_who_agrees(answer: str, people: list[str], expected: float) -> None:
    assert vqa_accuracy(answer, people) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Cat", "cat"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("1,000", "1000"),
        ("3.5 ft.", "3.5 ft"),
        ("its wells", "its wells"),
    ],
)
def test_answers_are_compared_without_what_does_not_matter(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_other_rules() -> None:
    assert (exact("A dog.", "dog"), exact("dogs", "dog")) == (1.0, 0.0)
    assert [relaxed(each, "200") for each in ("190", "189.9", "210.0", "200%", "about 200")] == [
        1.0,
        0.0,
        1.0,
        0.0,
        0.0,
    ]
    assert (relaxed("5%", "0.05"), relaxed("0", "0"), relaxed("0.0", "0")) == (1.0, 1.0, 0.0)
    assert anls("12/3/2019", ["12/03/2019"]) == pytest.approx(0.9)
    assert (anls("", ["a"]), anls("Total", ["total", "sum"])) == (0.0, 1.0)


def test_yes_and_no_are_counted_as_popes_script_counts_them() -> None:
    said = ["Yes, there is.", "no", "There is not a dog. Yes", "I can't tell", "No."]
    found = score_yes_no(said, [True, True, False, False, False])
    assert found == answer_scores.YesNo(accuracy=3 / 5, precision=1 / 2, recall=1 / 2, f1=1 / 2, yes_ratio=2 / 5)


def test_nothing_to_compare_with_is_refused() -> None:
    for call in (lambda: vqa_accuracy("a", []), lambda: anls("a", []), lambda: score_yes_no(["yes"], [])):
        with pytest.raises(DataError, match="expected"):
            call()
