"""The losses of distillation: each against loops over Python floats, against numbers worked out by hand, its gradient,
and what must not change it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from edgevlm.distillation import recipe
from edgevlm.distillation.losses import LOSSES, LossInputs, Term, total
from edgevlm.errors import RecipeError

Rows = list[list[float]]
NAMES = tuple(LOSSES)
CONTRASTS_GROUPS = ("caption_contrastive", "clip", "interactive_contrastive")


def random_inputs(seed: int = 0, batch: int = 6, dim: int = 5, labels: int = 7, **changes: Any) -> LossInputs:
    """Unit vectors in float64; labels with one unknown and some that the teacher gets right; two groups of two."""
    draws = torch.Generator().manual_seed(seed)

    def rows(count: int) -> Tensor:
        return normalize(torch.randn(count, dim, generator=draws, dtype=torch.float64))

    teacher_image, label_text = rows(batch), rows(labels)
    label = (teacher_image @ label_text.T).argmax(1)
    label[1], label[2] = -1, (label[2] + 1) % labels
    inputs = LossInputs(
        image=rows(batch),
        teacher_image=teacher_image,
        text=rows(batch),
        teacher_text=rows(batch),
        label=label,
        label_text=label_text,
        group=torch.tensor([0, 1, 0, 2, 2, 3][:batch]),
        scale=torch.tensor(3.0, dtype=torch.float64),
    )
    return replace(inputs, **changes)


def cases() -> list[tuple[str, dict[str, float], dict[str, Any]]]:
    """A loss, its options, and what is different in its inputs."""
    soft = {"teacher_temperature": 0.4}
    return [
        ("classification", {}, {}),
        ("classification", {"temperature": 0.5}, {}),
        ("feature_mse", {}, {}),
        ("feature_text_mse", {}, {}),
        ("image_contrastive", {}, {}),
        ("image_contrastive", {"temperature": 0.3}, {}),
        ("proximity", {}, {}),
        ("proximity", {"temperature": 0.4, "k": 3}, {}),
        ("caption_contrastive", {}, {}),
        ("caption_contrastive", {"temperature": 0.1}, {"group": None}),
        ("clip", {}, {}),
        ("clip", {}, {"text": None}),
        ("clip", {}, {"group": None}),
        ("interactive_contrastive", {}, {}),
        ("interactive_contrastive", {}, {"group": None}),
        ("affinity_mimicking", soft, {}),
        ("affinity_mimicking", soft, {"text": None}),
        ("relational", soft, {}),
        ("relational", soft, {"text": None}),
    ]


def value(name: str, inputs: LossInputs, options: Mapping[str, float] | None = None) -> Tensor:
    return Term(name, options=options or {}).value(inputs)


# The same in Python floats, one entry at a time.


def dots(a: Rows, b: Rows, factor: float) -> Rows:
    return [[factor * sum(x * y for x, y in zip(row, other, strict=True)) for other in b] for row in a]


def transpose(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def softmax(row: Sequence[float]) -> list[float]:
    powers = [math.exp(entry) for entry in row]
    return [power / sum(powers) for power in powers]


def picked(logits: Rows, group: list[int] | None) -> float:
    terms = []
    for i, row in enumerate(logits):
        left = [j for j in range(len(row)) if j == i or group is None or group[i] != group[j]]
        terms.append(math.log(sum(math.exp(row[j]) for j in left)) - row[i])
    return mean(terms)


def cross_entropy(teacher: Rows, student: Rows) -> float:
    terms = []
    for row, other in zip(teacher, student, strict=True):
        terms.append(-sum(p * math.log(q) for p, q in zip(softmax(row), softmax(other), strict=True)))
    return mean(terms)


def squared_distance(a: Rows, b: Rows) -> float:
    return mean([sum((x - y) ** 2 for x, y in zip(row, other, strict=True)) for row, other in zip(a, b, strict=True)])


def slow_classification(given: Any, temperature: float = 0.07) -> float:
    terms = []
    for row, label in zip(dots(given.image, given.label_text, 1 / temperature), given.label, strict=True):
        if label >= 0:
            terms.append(-math.log(softmax(row)[label]))
    return mean(terms)


def slow_proximity(given: Any, temperature: float = 0.07, k: float = 256) -> float:
    terms = []
    teacher = dots(given.teacher_image, given.label_text, 1 / temperature)
    student = dots(given.image, given.label_text, 1 / temperature)
    for t, s, label in zip(teacher, student, given.label, strict=True):
        order = sorted(range(len(t)), key=lambda j: -t[j])[: int(k)]
        if order[0] == label:
            # The other way to say it: of the softmax over all texts, what falls on these, divided by its sum.
            p, q = ([softmax(row)[j] for j in order] for row in (t, s))
            p, q = ([each / sum(some) for each in some] for some in (p, q))
            terms.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return mean(terms)


def slow_image_contrastive(given: Any, temperature: float = 0.07) -> float:
    logits = dots(given.image, given.teacher_image, 1 / temperature)
    return (picked(logits, None) + picked(transpose(logits), None)) / 2


def slow_clip(given: Any) -> float:
    logits = dots(given.image, given.text or given.teacher_text, given.scale)
    return (picked(logits, given.group) + picked(transpose(logits), given.group)) / 2


def slow_interactive(given: Any) -> float:
    one = picked(dots(given.image, given.teacher_text, given.scale), given.group)
    return (one + picked(dots(given.text, given.teacher_image, given.scale), given.group)) / 2


def slow_affinity(given: Any, teacher_temperature: float = 0.01) -> float:
    teacher = dots(given.teacher_image, given.teacher_text, 1 / teacher_temperature)
    student = dots(given.image, given.text or given.teacher_text, given.scale)
    return (cross_entropy(teacher, student) + cross_entropy(transpose(teacher), transpose(student))) / 2


def slow_relational(given: Any, teacher_temperature: float = 0.01) -> float:
    teacher = dots(given.teacher_image, given.teacher_text, 1 / teacher_temperature)
    entropy = (cross_entropy(teacher, teacher) + cross_entropy(transpose(teacher), transpose(teacher))) / 2
    return slow_affinity(given, teacher_temperature) - entropy


SLOW: dict[str, Callable[..., float]] = {
    "classification": slow_classification,
    "feature_mse": lambda given: squared_distance(given.image, given.teacher_image),
    "feature_text_mse": lambda given: squared_distance(given.text, given.teacher_text),
    "image_contrastive": slow_image_contrastive,
    "proximity": slow_proximity,
    "caption_contrastive": lambda given, temperature=1.0: picked(
        dots(given.image, given.teacher_text, 1 / temperature), given.group
    ),
    "clip": slow_clip,
    "interactive_contrastive": slow_interactive,
    "affinity_mimicking": slow_affinity,
    "relational": slow_relational,
}


def listed(inputs: LossInputs) -> LossInputs:
    changes = {each.name: getattr(inputs, each.name) for each in fields(inputs)}
    return replace(inputs, **{name: None if x is None else x.tolist() for name, x in changes.items()})


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "options", "changes"), cases())
def test_a_loss_is_what_slow_loops_say(name: str, options: dict[str, float], changes: Any, seed: int) -> None:
    inputs = random_inputs(seed, **changes)
    slow = SLOW[name](listed(inputs), **options)
    assert abs(slow) > 1e-3
    assert value(name, inputs, options).item() == pytest.approx(slow, rel=1e-10)


def test_every_loss_has_a_case_and_a_reference() -> None:
    assert {name for name, _, _ in cases()} == set(SLOW) == set(LOSSES)


# By hand. OWN: each is at cosine 1 to its own pair and at 0 to the other; SWAPPED: the reverse.

NEAR, FAR = 0.313261687518223, 1.313261687518223  # CE of logits (1, 0) against the first, and the second
OWN, SWAPPED = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).flip(0)
OWN3 = torch.eye(3, dtype=torch.float64)
BOTH_FIRST = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
TILTED = torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
TILTED_OTHERWISE = torch.tensor([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
ONE = {"temperature": 1.0}
ONE_TEACHER = {"teacher_temperature": 1.0}


def inputs_by_hand(**given: Any) -> LossInputs:
    blank: dict[str, Any] = dict.fromkeys(each.name for each in fields(LossInputs))
    blank["scale"] = torch.tensor(float(given.pop("scale", 1.0)), dtype=torch.float64)
    return LossInputs(**blank | given)


def ids(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


BY_HAND: list[tuple[str, dict[str, float], dict[str, Any], float]] = [
    ("classification", ONE, {"image": OWN, "label_text": OWN, "label": ids(0, 1)}, NEAR),
    ("classification", ONE, {"image": OWN, "label_text": OWN, "label": ids(1, 0)}, FAR),
    (
        "classification",
        ONE,
        {"image": OWN, "label_text": OWN, "label": ids(1, -1)},
        FAR,
    ),  # the unknown one does not count
    ("classification", {"temperature": 0.5}, {"image": OWN, "label_text": OWN, "label": ids(0, 1)}, 0.126928011042973),
    ("feature_mse", {}, {"image": OWN, "teacher_image": SWAPPED}, 2.0),
    ("feature_mse", {}, {"image": OWN, "teacher_image": BOTH_FIRST}, 1.0),  # one right: 0, one at a right angle: 2
    ("feature_text_mse", {}, {"image": OWN, "text": -OWN, "teacher_text": OWN}, 4.0),
    ("image_contrastive", ONE, {"image": OWN, "teacher_image": OWN}, NEAR),
    ("image_contrastive", ONE, {"image": OWN, "teacher_image": SWAPPED}, FAR),
    # Rows (1, 0), (1, 0): NEAR, FAR. Columns (1, 1), (0, 0): log 2 each.
    ("image_contrastive", ONE, {"image": BOTH_FIRST, "teacher_image": OWN}, ((NEAR + FAR) / 2 + 0.693147180559945) / 2),
    # Teacher's top two cosines 0.8, 0.6, the student's 0.6, 0.8: (2 sigmoid(0.2) - 1) * 0.2 = 0.2 tanh(0.1). The
    # second picture's nearest text is not its label's, and it does not count.
    (
        "proximity",
        {"temperature": 1.0, "k": 2},
        {"image": TILTED_OTHERWISE, "teacher_image": TILTED, "label_text": OWN3, "label": ids(0, 1)},
        0.019933598924862,
    ),
    # With the third text: (e^0.8 - e^0.6) / (e^0.8 + e^0.6 + 1) * 0.2.
    (
        "proximity",
        ONE,
        {"image": TILTED_OTHERWISE, "teacher_image": TILTED, "label_text": OWN3, "label": ids(0, -1)},
        0.015984521531575,
    ),
    # Two pictures of one class see their own caption and the third's: NEAR; the third sees all: log(1 + 2/e).
    (
        "caption_contrastive",
        ONE,
        {"image": OWN3, "teacher_text": OWN3, "group": ids(5, 5, 2)},
        (2 * NEAR + 0.551444713932051) / 3,
    ),
    ("caption_contrastive", {}, {"image": OWN, "teacher_text": SWAPPED}, FAR),
    ("clip", {}, {"image": OWN, "teacher_text": OWN}, NEAR),
    ("clip", {}, {"image": OWN, "teacher_text": OWN, "scale": 2}, 0.126928011042973),
    ("clip", {}, {"image": OWN, "text": SWAPPED, "teacher_text": OWN}, FAR),
    ("clip", {}, {"image": OWN, "teacher_text": SWAPPED, "group": ids(4, 4)}, 0.0),
    (
        "interactive_contrastive",
        {},
        {"image": OWN, "teacher_text": OWN, "text": SWAPPED, "teacher_image": OWN},
        (NEAR + FAR) / 2,
    ),
    # The teacher's (sigmoid(1), sigmoid(-1)) on FAR and NEAR: NEAR + sigmoid(1).
    (
        "affinity_mimicking",
        ONE_TEACHER,
        {"image": OWN, "teacher_image": OWN, "teacher_text": OWN, "text": SWAPPED},
        NEAR + 0.731058578630005,
    ),
    # An even student: log 2, whatever the teacher says.
    (
        "affinity_mimicking",
        ONE_TEACHER,
        {"image": OWN, "teacher_image": OWN, "teacher_text": OWN, "scale": 0},
        0.693147180559945,
    ),
    # Probabilities exchanged: (2 sigmoid(1) - 1) * 1 = tanh(1/2).
    ("relational", ONE_TEACHER, {"image": SWAPPED, "teacher_image": OWN, "teacher_text": OWN}, 0.462117157260010),
    (
        "relational",
        {"teacher_temperature": 0.5},
        {"image": OWN, "teacher_image": OWN, "teacher_text": OWN, "scale": 2},
        0.0,
    ),
]


@pytest.mark.parametrize(("name", "options", "given", "expected"), BY_HAND)
def test_a_loss_is_what_was_worked_out_by_hand(
    name: str, options: dict[str, float], given: dict[str, Any], expected: float
) -> None:
    assert value(name, inputs_by_hand(**given), options).item() == pytest.approx(expected, abs=1e-8)


def test_every_loss_was_worked_out_by_hand() -> None:
    assert {name for name, _, _, _ in BY_HAND} == set(LOSSES)


# Gradients.


def through(name: str, options: Mapping[str, float], inputs: LossInputs) -> Callable[..., Tensor]:
    """The loss as a function of all that is trained: pictures, texts, scale."""

    def function(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        text_ = None if inputs.text is None else text
        return value(name, replace(inputs, image=image, text=text_, scale=scale), options)

    return function


@pytest.mark.parametrize(("name", "options", "changes"), cases())
def test_the_gradient_is_that_of_small_steps(name: str, options: dict[str, float], changes: Any) -> None:
    inputs, text = random_inputs(1, batch=4, **changes), random_inputs(2, batch=4).text
    assert text is not None
    trained = [each.clone().requires_grad_() for each in (inputs.image, text, inputs.scale)]
    assert torch.autograd.gradcheck(through(name, options, inputs), trained)


def gradients(name: str, options: Mapping[str, float], inputs: LossInputs) -> list[Tensor]:
    assert inputs.text is not None
    trained = [each.clone().requires_grad_() for each in (inputs.image, inputs.text, inputs.scale)]
    through(name, options, inputs)(*trained).backward()
    return [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]


def test_cross_entropy_and_divergence_differ_by_the_teachers_entropy_alone() -> None:
    inputs, other, options = random_inputs(0), random_inputs(1), {"teacher_temperature": 0.3}
    for one, two in zip(*(gradients(n, options, inputs) for n in ("affinity_mimicking", "relational")), strict=True):
        assert one.abs().max() > 1e-3
        torch.testing.assert_close(one, two)
    students = inputs, replace(inputs, image=other.image, text=other.text)
    gaps = [value("affinity_mimicking", s, options) - value("relational", s, options) for s in students]
    torch.testing.assert_close(*gaps)
    assert gaps[0] > 0.1


# What must not change a loss, and where it is least.


@pytest.mark.parametrize(("name", "options", "changes"), cases())
def test_the_order_of_the_batch_does_not_matter(name: str, options: dict[str, float], changes: Any) -> None:
    inputs, order = random_inputs(**changes), torch.tensor([3, 0, 5, 1, 4, 2])
    rows = ("image", "teacher_image", "text", "teacher_text", "label", "group")
    there = {row: getattr(inputs, row) for row in rows if getattr(inputs, row) is not None}
    moved = replace(inputs, **{row: each[order] for row, each in there.items()})
    torch.testing.assert_close(value(name, moved, options), value(name, inputs, options))


def test_the_order_of_the_labels_does_not_matter() -> None:
    inputs, order = random_inputs(), torch.tensor([3, 0, 6, 5, 1, 4, 2])
    assert inputs.label is not None
    assert inputs.label_text is not None
    label = torch.where(inputs.label >= 0, order.argsort()[inputs.label.clamp(min=0)], -1)
    moved = replace(inputs, label=label, label_text=inputs.label_text[order])
    for name in ("classification", "proximity"):
        torch.testing.assert_close(value(name, moved, {}), value(name, inputs, {}))


@pytest.mark.parametrize("name", CONTRASTS_GROUPS)
def test_a_group_hides_its_members_from_one_another_and_nobody_else(name: str) -> None:
    inputs, other = random_inputs(group=ids(0, 1, 2, 3, 4, 0)), random_inputs(9)
    alone, apart = (replace(inputs, group=group) for group in (ids(7, 7, 7, 7, 7, 7), ids(0, 1, 2, 3, 4, 5)))
    assert value(name, alone).item() == 0.0
    assert value(name, inputs) < value(name, apart)
    torch.testing.assert_close(value(name, apart), value(name, replace(inputs, group=None)))
    # A text of the own group has no influence on a picture's loss, which the gradient of that picture shows.
    assert inputs.teacher_text is not None
    assert other.teacher_text is not None
    swapped = inputs.teacher_text.clone()
    swapped[5] = other.teacher_text[5]
    before, after = (
        gradients(name, {}, replace(inputs, text=texts, teacher_text=texts, teacher_image=inputs.image))[0]
        for texts in (inputs.teacher_text, swapped)
    )
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


PERFECT = {"teacher_temperature": 0.25}
LEAST_FOR_THE_PERFECT = [
    ("feature_mse", {}),
    ("feature_text_mse", {}),
    ("proximity", {"k": 3}),
    ("relational", PERFECT),
    ("affinity_mimicking", PERFECT),
]


@pytest.mark.parametrize(("name", "options"), LEAST_FOR_THE_PERFECT)
def test_the_teacher_itself_is_the_best_student(name: str, options: dict[str, float]) -> None:
    teacher = random_inputs(scale=torch.tensor(4.0, dtype=torch.float64))
    perfect = replace(teacher, image=teacher.teacher_image, text=teacher.teacher_text)
    for gradient in gradients(name, options, perfect):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    best = value(name, perfect, options)
    if name != "affinity_mimicking":
        assert best.item() == pytest.approx(0.0, abs=1e-12)
    for seed in range(20):
        noise = 0.1 * (seed + 1) * random_inputs(seed).image
        assert best < value(name, replace(perfect, image=perfect.image + noise, text=perfect.image - noise), options)


@pytest.mark.parametrize("name", ["classification", "image_contrastive", "clip", "caption_contrastive"])
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    inputs = random_inputs()
    image, text, scale = gradients(name, {}, inputs)
    assert inputs.text is not None
    stepped = replace(
        inputs, image=inputs.image - 1e-3 * image, text=inputs.text - 1e-3 * text, scale=inputs.scale - 1e-3 * scale
    )
    assert value(name, stepped) < value(name, inputs)


def test_where_the_teacher_is_never_right_proximity_is_zero_and_can_be_trained_through() -> None:
    inputs = random_inputs()
    assert inputs.label is not None
    for label in (torch.full_like(inputs.label, -1), (inputs.label.clamp(min=0) + 3) % 7):
        wrong = replace(inputs, label=label)
        teacher_right = (inputs.teacher_image @ inputs.label_text.T).argmax(1) == label  # type: ignore[union-attr, operator]
        assert not teacher_right.any()
        assert value("proximity", wrong).item() == 0.0
        assert not any(gradient.any() for gradient in gradients("proximity", {}, wrong))


def test_without_a_known_label_classification_is_zero_and_can_be_trained_through() -> None:
    inputs = random_inputs(label=torch.full((6,), -1))
    assert value("classification", inputs).item() == 0.0
    assert not any(gradient.any() for gradient in gradients("classification", {}, inputs))


def test_a_k_beyond_the_number_of_labels_takes_them_all() -> None:
    inputs = random_inputs()
    found = [value("proximity", inputs, {"k": k}) for k in (7, 8, 1000)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_extreme_logits_stay_finite_in_float32(name: str, opposite: bool, masked: bool) -> None:
    inputs = random_inputs(scale=torch.tensor(1e6))
    group = torch.zeros(6, dtype=torch.int64) if masked else None
    changes = {each: getattr(inputs, each).float() for each in ("teacher_image", "teacher_text", "label_text")}
    sign = -1 if opposite else 1
    student = {"image": sign * changes["teacher_image"], "text": sign * changes["teacher_text"]}
    inputs = replace(inputs, **changes, **student, group=group)
    options = {option: 1e-6 for option in LOSSES[name].options if option != "k"}
    assert value(name, inputs, options).dtype == torch.float32
    assert value(name, inputs, options).isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(name, options, inputs))


# The registry and the sum.


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_needs_what_it_says_and_looks_at_nothing_else(name: str) -> None:
    inputs, loss = random_inputs(), LOSSES[name]
    others = {each.name for each in fields(inputs)} - {"image", "scale", *loss.uses}
    bare = replace(inputs, **dict.fromkeys(others))
    if "scale" not in loss.uses:
        bare = replace(bare, scale=torch.tensor(math.nan))
    torch.testing.assert_close(value(name, bare), value(name, inputs), rtol=0, atol=0)
    for also in loss.also:
        assert value(name, replace(bare, **{also: None})) != value(name, inputs)
    poor = replace(bare, **dict.fromkeys(loss.also))
    for needed in set(loss.needs) - {"scale"}:
        with pytest.raises(RecipeError, match=rf"needs {needed}\b") as caught:
            value(name, replace(poor, **{needed: None}))
        assert caught.value.hint is not None
        assert name in caught.value.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_says_which_paper_it_follows(name: str) -> None:
    assert re.search(r"\d{4}\.\d{5}", LOSSES[name].paper)
    assert LOSSES[name].paper.removeprefix("arXiv ") in (LOSSES[name].function.__doc__ or "")


def test_options_are_the_functions_own_defaults() -> None:
    assert LOSSES["proximity"].options == {"temperature": 0.07, "k": 256}
    assert LOSSES["feature_mse"].options == {}
    assert LOSSES["relational"].options == {"teacher_temperature": 0.01}


def test_an_option_left_out_is_the_default() -> None:
    inputs = random_inputs()
    for name in NAMES:
        given = {option: float(default) for option, default in LOSSES[name].options.items()}  # as YAML is read
        torch.testing.assert_close(value(name, inputs, given), value(name, inputs), rtol=0, atol=0)


def test_the_total_is_the_weighted_sum_of_the_named_parts() -> None:
    inputs = random_inputs()
    image = inputs.image.clone().requires_grad_()
    terms = [
        Term("feature_mse", 0.5),
        Term("proximity", 2.0, {"k": 2}),
        Term("proximity", 1.0, {"k": 5}),
        Term("clip", 0.0),
    ]
    loss, parts = total(replace(inputs, image=image), terms)
    assert list(parts) == ["feature_mse", "proximity", "proximity_2", "clip"]
    for term, part in zip(terms, parts.values(), strict=True):
        assert part == term.value(inputs)
        assert not part.requires_grad
    expected = sum(term.weight * part.item() for term, part in zip(terms, parts.values(), strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    each = [term.weight * gradients(term.loss, term.options, inputs)[0] for term in terms]
    assert image.grad is not None
    torch.testing.assert_close(image.grad, torch.stack(each).sum(0))


@pytest.mark.parametrize(
    ("loss", "weight", "options", "message"),
    [
        ("clips", 1.0, {}, r"no loss 'clips': expected one of classification, .*relational"),
        ("clip", -1.0, {}, r"clip\.weight: expected a number, at least 0, got -1\.0"),
        ("clip", math.nan, {}, r"clip\.weight: expected a number"),
        ("clip", math.inf, {}, r"clip\.weight: expected a number"),
        ("clip", 1.0, {"temperature": 0.1}, r"clip: unknown option 'temperature': this loss has none"),
        ("proximity", 1.0, {"top": 5.0}, r"proximity: unknown option 'top': expected temperature, k"),
        ("proximity", 1.0, {"k": 2.5}, r"proximity\.k: expected a whole number, at least 2, got 2\.5"),
        ("proximity", 1.0, {"k": 1.0}, r"proximity\.k: expected a whole number, at least 2, got 1\.0"),
        ("proximity", 1.0, {"k": math.inf}, r"proximity\.k: expected a whole number"),
        ("classification", 1.0, {"temperature": 0.0}, r"classification\.temperature: expected a number above 0"),
        ("classification", 1.0, {"temperature": math.nan}, r"classification\.temperature: expected a number above 0"),
    ],
)
def test_a_term_that_means_nothing_is_refused(
    loss: str, weight: float, options: dict[str, float], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Term(loss, weight, options)


def test_a_total_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="at least one loss"):
        total(random_inputs(), [])


@pytest.mark.parametrize("shipped", recipe.BUILTIN)
def test_the_losses_of_the_shipped_recipes_exist(shipped: str) -> None:
    terms = [Term(each.loss, each.weight, each.options) for each in recipe.resolve(shipped).losses]
    loss, parts = total(random_inputs(), terms)
    assert loss.isfinite()
    assert len(parts) == len(terms)
