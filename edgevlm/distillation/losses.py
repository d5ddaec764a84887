"""The losses that a student is distilled with, by name, and their weighted sum.

Every loss takes the whole batch, gathered from all processes, and returns a scalar. The docstrings write s, t for the
student's and the teacher's picture embeddings [B, D], u, v for the student's and the teacher's text embeddings of the
batch's texts [B, D], w for the teacher's embeddings of the label texts [L, D], all of length one; a dot is the cosine.
Row-wise softmax and cross-entropy (CE) are over the last index. Temperatures divide cosines; `scale`, the student's
learned factor, multiplies them.

Distillation by CE and by KL divergence differ by the entropy of the teacher's distribution, which no weight of the
student changes: `affinity_mimicking` (CE) and `relational` (KL) have equal gradients. KL is zero for a perfect student
and so easier to read; CE is what TinyCLIP and MobileCLIP log.

MobileCLIP's distillation loss (Vasu et al., arXiv 2311.17049) is `relational`: the mean of both directions' KL, a fixed
teacher temperature, a learned student one; the authors' code computes its CE twin. With several teachers the paper
averages the members' distributions; here `edgevlm.distillation.teacher` averages their cosines before the softmax.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from edgevlm.errors import RecipeError


@dataclass(frozen=True)
class LossInputs:
    """What losses may look at: B pictures, each paired with one text. Embeddings are unit vectors, [.., D].

    Attributes:
        image: float [B, D], the student's pictures in the teacher's space.
        teacher_image: float [B, D]; None where no loss asks for it.
        text: float [B, D], the student's embeddings of the texts; None where its text tower is the teacher's.
        teacher_text: float [B, D], the teacher's embeddings of the texts.
        label: int64 [B], rows of `label_text`; -1 where unknown.
        label_text: float [L, D], the teacher's embeddings of the label texts; None without labels.
        group: int64 [B]; pictures with equal numbers are of one class or share the very same text, so that the text
            of one is no negative of the other. None: all differ.
        scale: float, scalar: the student's learned factor on cosines, `exp` already applied.
    """

    image: Tensor
    teacher_image: Tensor | None
    text: Tensor | None
    teacher_text: Tensor | None
    label: Tensor | None
    label_text: Tensor | None
    group: Tensor | None
    scale: Tensor


def classification(inputs: LossInputs, *, temperature: float = 0.07) -> Tensor:
    """Tells the picture's label text from the other label texts: L_cls of Li et al. (arXiv 2307.03135).

    mean over i of CE(s_i . w / temperature, label_i), [B, L] logits; over the pictures whose label is known, and zero
    where none is.
    """
    label, label_text = _given(inputs, "label"), _given(inputs, "label_text")
    logits = inputs.image @ label_text.T / temperature
    return functional.cross_entropy(logits, label, ignore_index=-1, reduction="sum") / _count(label >= 0)


def feature_mse(inputs: LossInputs) -> Tensor:
    """Puts the picture where the teacher puts it: L_mse of Li et al. (arXiv 2307.03135), FD of CLIP-KD (2307.12732).

    mean over i of |s_i - t_i|^2 = 2 - 2 s_i . t_i, a sum over the D dimensions; CLIP-KD's is a mean over them, a Dth
    of this.
    """
    return _squared_distance(inputs.image, _given(inputs, "teacher_image"))


def feature_text_mse(inputs: LossInputs) -> Tensor:
    """Puts the text where the teacher puts it, for a student with a text tower: FD of CLIP-KD (arXiv 2307.12732).

    mean over i of |u_i - v_i|^2, a sum over the D dimensions; CLIP-KD's is a mean over them, a Dth of this.
    """
    return _squared_distance(_given(inputs, "text"), _given(inputs, "teacher_text"))


def image_contrastive(inputs: LossInputs, *, temperature: float = 0.07) -> Tensor:
    """Finds the picture among the teacher's pictures, and back: L_im-cst of Li et al. (arXiv 2307.03135).

    With M = s . t^T / temperature, [B, B]: the mean of CE(M_i, i) and CE(M^T_i, i) over i. Other pictures of the same
    class count as negatives: it is the picture that is told apart, not the class.
    """
    return _contrast(inputs.image @ _given(inputs, "teacher_image").T / temperature)


def proximity(inputs: LossInputs, *, temperature: float = 0.07, k: int = 256) -> Tensor:
    """Ranks the label texts nearest to the picture as the teacher does: L_vlprox of Li et al. (arXiv 2307.03135).

    mean over i of KL(p_i || q_i), of those pictures whose nearest label text in the teacher's space is their own
    label's: others, and those without a label, would teach a mistake. Where no picture qualifies the loss is zero, with
    a zero gradient. The mean over the pictures that count, rather than over the batch, is the authors' code's.

    p_i and q_i are distributions over K_i, the min(k, L) label texts with the largest t_i . w, chosen by the teacher
    for both. They are renormalised by a softmax over these alone: p_i = softmax over j in K_i of
    t_i . w_j / temperature, and q_i the same of s_i . w_j; equal to the softmax over all L, restricted to K_i and
    divided by its sum there.
    """
    label, label_text = _given(inputs, "label"), _given(inputs, "label_text")
    teacher = _given(inputs, "teacher_image") @ label_text.T / temperature
    student = inputs.image @ label_text.T / temperature
    nearest, chosen = teacher.topk(min(k, len(label_text)), dim=1)  # the nearest text comes first
    right = chosen[:, 0] == label
    return (_divergence(nearest, student.gather(1, chosen)) * right).sum() / _count(right)


def caption_contrastive(inputs: LossInputs, *, temperature: float = 1.0) -> Tensor:
    """Finds the picture's caption among the batch's captions: L_cap of Li et al. (arXiv 2307.03135).

    With C = s . v^T / temperature, [B, B], and C_ij left out where j != i has i's group: mean over i of CE(C_i, i). One
    direction only, and cosines as they are (temperature 1), both as in the authors' code.
    """
    logits = inputs.image @ _given(inputs, "teacher_text").T / temperature
    return _pick(_mask(logits, inputs.group))


def clip(inputs: LossInputs) -> Tensor:
    """Pairs pictures with their texts: the loss that CLIP is trained with (Radford et al., arXiv 2103.00020).

    With M = scale * s . u^T, [B, B], and M_ij left out where j != i has i's group: the mean of CE(M_i, i) and
    CE(M^T_i, i) over i. The teacher's v stands for u where the student has no text tower.
    """
    return _contrast(_mask(inputs.scale * inputs.image @ _student_text(inputs).T, inputs.group))


def interactive_contrastive(inputs: LossInputs) -> Tensor:
    """Pairs the student's pictures with the teacher's texts, and the reverse: ICL of CLIP-KD (arXiv 2307.12732).

    With M = scale * s . v^T and N = scale * u . t^T, both [B, B], entries left out as in `clip`: the mean of CE(M_i, i)
    and CE(N_i, i) over i. CLIP-KD learns a factor of its own for these logits; here it is the student's.
    """
    texts = inputs.scale * inputs.image @ _given(inputs, "teacher_text").T
    pictures = inputs.scale * _given(inputs, "text") @ _given(inputs, "teacher_image").T
    return (_pick(_mask(texts, inputs.group)) + _pick(_mask(pictures, inputs.group))) / 2


def affinity_mimicking(inputs: LossInputs, *, teacher_temperature: float = 0.01) -> Tensor:
    """Spreads a picture's affinity over the texts, and a text's over the pictures, as the teacher does.

    With A = t . v^T / teacher_temperature and M = scale * s . u^T, both [B, B]: the mean of CE(softmax(A_i), M_i) and
    CE(softmax(A^T_i), M^T_i) over i. The teacher's v stands for u where the student has no text tower. No pair is left
    out: the teacher gives two pictures of one class their share. Least, and then the mean of the teacher's entropies,
    where M and A differ by a constant.

    Affinity mimicking of TinyCLIP (Wu et al., arXiv 2309.12314), whose code takes the mean of the two directions too;
    the teacher's temperature is there its own learned one, and 0.01 is the one at which CLIP's own models end.
    """
    teacher, student = _affinities(inputs, teacher_temperature)
    forth = functional.cross_entropy(student, teacher.softmax(1))
    back = functional.cross_entropy(student.T, teacher.T.softmax(1))
    return (forth + back) / 2


def relational(inputs: LossInputs, *, teacher_temperature: float = 0.01) -> Tensor:
    """`affinity_mimicking` with KL for CE: CRD of CLIP-KD (arXiv 2307.12732), and MobileCLIP's loss (2311.17049).

    With A = t . v^T / teacher_temperature and M = scale * s . u^T, both [B, B]: the mean of KL(softmax(A_i) ||
    softmax(M_i)) and KL(softmax(A^T_i) || softmax(M^T_i)) over i; zero for a perfect student. The teacher's v stands
    for u where the student has no text tower. CLIP-KD's teacher temperature is the teacher's own, MobileCLIP's 0.01.
    """
    teacher, student = _affinities(inputs, teacher_temperature)
    return (_divergence(teacher, student).mean() + _divergence(teacher.T, student.T).mean()) / 2


@dataclass(frozen=True)
class Loss:
    """A loss, and what a recipe must know of it.

    Attributes:
        function: Takes `LossInputs` and, by keyword, its options.
        paper: Where it comes from.
        needs: Names of the inputs, beside `image`, that a run must be able to give; `clip` names the teacher's texts
            too, for students without a text tower.
        also: Names of the inputs that it uses where they are there.
    """

    function: Callable[..., Tensor]
    paper: str
    needs: tuple[str, ...]
    also: tuple[str, ...] = ()

    @property
    def uses(self) -> tuple[str, ...]:
        """Names of all inputs that it looks at, beside `image`."""
        return self.needs + self.also

    @property
    def options(self) -> dict[str, float]:
        """Its options' defaults by name; an int where only whole numbers make sense."""
        parameters = inspect.signature(self.function).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


_LI, _CLIP_KD = "arXiv 2307.03135", "arXiv 2307.12732"
LOSSES: dict[str, Loss] = {
    "classification": Loss(classification, _LI, ("label", "label_text")),
    "feature_mse": Loss(feature_mse, _LI, ("teacher_image",)),
    "feature_text_mse": Loss(feature_text_mse, _CLIP_KD, ("text", "teacher_text")),
    "image_contrastive": Loss(image_contrastive, _LI, ("teacher_image",)),
    "proximity": Loss(proximity, _LI, ("teacher_image", "label", "label_text")),
    "caption_contrastive": Loss(caption_contrastive, _LI, ("teacher_text",), ("group",)),
    "clip": Loss(clip, "arXiv 2103.00020", ("teacher_text", "scale"), ("text", "group")),
    "interactive_contrastive": Loss(
        interactive_contrastive, _CLIP_KD, ("teacher_image", "text", "teacher_text", "scale"), ("group",)
    ),
    "affinity_mimicking": Loss(
        affinity_mimicking, "arXiv 2309.12314", ("teacher_image", "teacher_text", "scale"), ("text",)
    ),
    "relational": Loss(relational, _CLIP_KD, ("teacher_image", "teacher_text", "scale"), ("text",)),
}


@dataclass(frozen=True)
class Term:
    """A loss in a weighted sum.

    Attributes:
        loss: A name in `LOSSES`.
        weight: Its factor, at least 0.
        options: Instead of the loss's defaults.

    Raises:
        RecipeError: there is no such loss or option, or a number is out of range.
    """

    loss: str
    weight: float = 1.0
    options: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise RecipeError(f"no loss {self.loss!r}: expected one of {', '.join(LOSSES)}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise RecipeError(f"{self.loss}.weight: expected a number, at least 0, got {self.weight!r}")
        defaults = LOSSES[self.loss].options
        for name, value in self.options.items():
            if name not in defaults:
                known = f"expected {', '.join(defaults)}" if defaults else "this loss has none"
                raise RecipeError(f"{self.loss}: unknown option {name!r}: {known}")
            _check_option(f"{self.loss}.{name}", value, whole=isinstance(defaults[name], int))

    def value(self, inputs: LossInputs) -> Tensor:
        """The loss, without its weight."""
        loss = LOSSES[self.loss]
        return loss.function(inputs, **{name: type(loss.options[name])(value) for name, value in self.options.items()})


def total(inputs: LossInputs, terms: Sequence[Term]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and each loss by name, without its weight and detached.

    A loss that occurs again, with other options, is named `NAME_2` and so on.

    Raises:
        RecipeError: there are no terms, or an input is None that a loss needs.
    """
    if not terms:
        raise RecipeError("expected at least one loss, got none")
    values = [term.value(inputs) for term in terms]
    parts: dict[str, Tensor] = {}
    for number, (term, value) in enumerate(zip(terms, values, strict=True)):
        earlier = sum(other.loss == term.loss for other in terms[:number])
        parts[f"{term.loss}_{earlier + 1}" if earlier else term.loss] = value.detach()
    return torch.stack([term.weight * value for term, value in zip(terms, values, strict=True)]).sum(), parts


def _check_option(where: str, value: float, *, whole: bool) -> None:
    # The only counts are of things to choose among: with one there is nothing to learn.
    if whole and not (float(value).is_integer() and value >= 2):
        raise RecipeError(f"{where}: expected a whole number, at least 2, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise RecipeError(f"{where}: expected a number above 0, got {value!r}")


def _given(inputs: LossInputs, name: str) -> Tensor:
    value: Tensor | None = getattr(inputs, name)
    if value is None:
        needing = ", ".join(key for key, loss in LOSSES.items() if name in loss.needs)
        raise RecipeError(
            f"a loss of the recipe needs {name}, which this data or student does not give",
            hint=f"leave out what needs it: {needing}",
        )
    return value


def _student_text(inputs: LossInputs) -> Tensor:
    return _given(inputs, "teacher_text") if inputs.text is None else inputs.text


def _affinities(inputs: LossInputs, teacher_temperature: float) -> tuple[Tensor, Tensor]:
    """The teacher's and the student's logits of pictures (rows) and texts (columns), [B, B] each."""
    teacher = _given(inputs, "teacher_image") @ _given(inputs, "teacher_text").T / teacher_temperature
    return teacher, inputs.scale * inputs.image @ _student_text(inputs).T


def _squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(1).mean()


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of each row of logits, [N, K] -> [N]."""
    logs = functional.log_softmax(student, 1), functional.log_softmax(teacher, 1)
    return functional.kl_div(*logs, reduction="none", log_target=True).sum(1)


def _mask(logits: Tensor, group: Tensor | None) -> Tensor:
    """Minus infinity, a probability of zero, where row and column are not each other's pair but of one group."""
    if group is None:
        return logits
    same = group.unsqueeze(1) == group
    return logits.masked_fill(same.fill_diagonal_(False), -torch.inf)


def _pick(logits: Tensor) -> Tensor:
    """CE of each row against its own number, [B, B] -> scalar."""
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _contrast(logits: Tensor) -> Tensor:
    return (_pick(logits) + _pick(logits.T)) / 2


def _count(which: Tensor) -> Tensor:
    """How many are true; 1 where none is, so that a sum over none is divided to zero."""
    return which.sum().clamp(min=1)
