"""What matters first about a device, in words and a few figures: the fastest, the smallest, and whether it fits.

Who leads is said where the difference exceeds its error (`edgevlm.bench.report.fronts`); else who may, all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from edgevlm.bench.compare import ACCURACY_DROP
from edgevlm.bench.ratios import ratio
from edgevlm.bench.report.fronts import Point, fastest, points, surely_faster
from edgevlm.bench.report.wording import (
    Names,
    cosine,
    listed,
    megabytes,
    number,
    one_line,
    own_memory,
    share,
    shortened,
    threads,
)
from edgevlm.bench.results import Artefact, Emulated, Estimated, Evidence, Failed, Measured, Result, evidence

_COUNT_ERROR = 0.005
"""Of counted instructions: what Python does around an artefact differs by a few in a thousand."""
_NAMED = 3  # of those that cannot be told apart
_TIME_SPENT = "where the time goes"
_STAGES = {
    "decode": "decoding a JPEG of 1280 x 960",
    "resize": "resizing",
    "tokenise": "tokenising",
    "model": "the model",
    "compare": "comparing with 100 labels",
}


@dataclass(frozen=True)
class Figure:
    """A key figure.

    Attributes:
        name: What it is: `fastest`, `where the time goes`, `fewest instructions`, `smallest`, `fits`, `failed`.
        value: As text.
        unit: Of the value; empty for words.
        who: The artefact that it belongs to, or those that it may; empty where it belongs to none.
        details: What else there is to know, each a short phrase.
        evidence: How it came about; None for what needs none, such as a file's size.
        component: What it is of; empty for all.
        shared: Whether `who` are several that cannot be told apart.
    """

    name: str
    value: str
    unit: str
    who: str
    details: tuple[str, ...]
    evidence: Evidence | None
    component: str = ""
    shared: bool = False

    @property
    def title(self) -> str:
        """Its name, and of what it is."""
        if not self.component:
            return self.name
        return f"{self.name} {_PREPOSITIONS.get(self.name, 'for')} {self.component}"


_PREPOSITIONS = {"fastest": "at", _TIME_SPENT: "in"}


@dataclass(frozen=True)
class Summary:
    """A device's key figures, and the same in words."""

    words: str
    figures: tuple[Figure, ...]


def summarise(results: Sequence[Result], names: Names) -> Summary:
    """The summary of one device's results. Who leads is said of each model: another model is another task."""
    found = [each for each in results if not isinstance(each, Failed)]
    models = dict.fromkeys(each.artefact.model for each in found)
    figures = [
        each for model in models for each in _leaders([one for one in found if one.artefact.model == model], names)
    ]
    if figures:
        figures.append(_fit(results, names))
    if failed := _failed(results, names):
        figures.append(failed)
    return Summary(_words(figures, results, names, several=len(models) > 1), tuple(figures))


def _leaders(results: Sequence[Measured | Emulated | Estimated], names: Names) -> Iterator[Figure]:
    """Of one model: the fastest at each component, or what executes the fewest instructions, and the smallest."""
    counted = []
    for component in dict.fromkeys(each.component for each in results):
        among = [each for each in points(results) if each.component == component]
        among = [each for each in among if each.evidence == "measured"] or among
        if among:
            yield from _fastest(among, one_line(component), names)
        elif fewest := _fewest(results, component, names):
            counted.append(fewest)
    yield from counted
    yield _smallest(results, names)


def _words(figures: Sequence[Figure], results: Sequence[Result], names: Names, several: bool) -> str:
    """The figures without their numbers: who leads in what, what that costs, what does not work.

    Args:
        several: Whether there are several models.
    """
    sentences = []
    among = ", of its model," if several else ""
    least = _least_accurate(results, names)
    sole = [each for each in figures if each.who and not each.shared and each.name != _TIME_SPENT]
    for who in dict.fromkeys(each.who for each in sole):
        claims = _claims([each for each in sole if each.who == who], among)
        if who in least:
            claims.append("the least accurate" if len(least) == 1 else "among the least accurate")
        sentences.append(f"{who} {listed(claims)}")
    sentences += _ties(figures)
    for each in figures:
        if not each.who:
            sentences.append(_capital(each.details[0]) if each.name == "fits" else f"{each.value} results failed")
    return ". ".join(sentences) + "."


def _claims(figures: Sequence[Figure], among: str) -> list[str]:
    """What one artefact leads in, to be listed after its name."""
    claims = []
    if fewest := [each.component for each in figures if each.name == "fewest instructions"]:
        claims.append(f"executes{among} the fewest instructions for {listed(fewest)} (no latency is known)")
    fastest = [each for each in figures if each.name == "fastest"]
    for kind in dict.fromkeys(each.evidence for each in fastest):
        sure = "probably " if kind == "estimated" else ""
        claims.append(f"{sure}the fastest at {listed([each.component for each in fastest if each.evidence == kind])}")
    claims += ["the smallest" for each in figures if each.name == "smallest"]
    first = next((index for index, each in enumerate(claims) if not each.startswith("executes")), None)
    if first is not None:
        claims[first] = f"is{among} {claims[first]}"
    return claims


def _ties(figures: Sequence[Figure]) -> Iterator[str]:
    """Who may lead in what, where nobody surely does."""
    shared = [each for each in figures if each.shared]
    for name, who, kind in dict.fromkeys((each.name, each.who, each.evidence) for each in shared):
        same = [each for each in shared if (each.name, each.who, each.evidence) == (name, who, kind)]
        title = replace(same[0], component=listed([each.component for each in same])).title
        yield f"{_capital(title)}: {who}, {same[0].details[0]}"


def _least_accurate(results: Sequence[Result], names: Names) -> set[str]:
    """Who keeps least of a model's answers, of each model with several artefacts of which some surely keep more."""
    found = {each.artefact for each in results if each.artefact is not None and each.artefact.accuracy is not None}
    least = set()
    for model in {each.model for each in found}:
        known = {each: each.accuracy or 0.0 for each in found if each.model == model}
        lowest = min(known.values())
        if max(known.values()) - lowest > ACCURACY_DROP:
            least |= {names.label(each) for each, accuracy in known.items() if accuracy - lowest <= ACCURACY_DROP}
    return least


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ours(artefacts: Sequence[Artefact]) -> list[Artefact]:
    """Those that are not another toolchain's, where there are any."""
    return [each for each in artefacts if not each.peer] or list(artefacts)


def _fastest(among: Sequence[Point], component: str, names: Names) -> Iterator[Figure]:
    """The least latency, or those that may have it; and what comes before and after the model."""
    ours = set(_ours([each.artefact for each in among]))
    best = min((each for each in among if each.artefact in ours), key=lambda each: each.middle_ms)
    equals = fastest([each for each in among if each.artefact in ours])
    details = []
    if len(equals) > 1:
        of = "these runs" if best.evidence == "measured" else "the estimates"
        details += [f"no difference that {of} can tell", *_why(best, equals)]
    else:
        details.append(threads(best.threads))
        if best.artefact.accuracy is not None:
            details.append(f"centred cosine {cosine(best.artefact.accuracy)}")
        plain = next((each for each in among if _is_plain(each, best)), None)
        if plain is not None and plain is not best:
            details.append(f"{number(_times_slower(best, plain), 2)} times as fast as fp32")
        if best.evidence == "estimated":
            details.insert(0, f"between {number(best.low_ms)} and {number(best.high_ms)} ms")
    quicker = [each for each in among if each.artefact not in ours and surely_faster(each, best)]
    if quicker:
        rival = min(quicker, key=lambda each: each.middle_ms)
        details.append(f"a peer is faster: {names.label(rival.artefact)}, {number(rival.middle_ms)} ms")
    ends = dict.fromkeys(number(end(each.middle_ms for each in equals)) for end in (min, max))
    who, shared = _several([each.artefact for each in equals], ours, names), len(equals) > 1
    yield Figure("fastest", " to ".join(ends), "ms", who, tuple(details), best.evidence, component, shared)
    if isinstance(best.result, Measured):
        yield from _time_spent(best.result, component, names)


def _time_spent(measured: Measured, component: str, names: Names) -> Iterator[Figure]:
    """From a picture or a text to the answer, where more than the model was timed."""
    medians = {name: times.median for name, times in measured.times.stages.items()}
    whole = sum(medians.values())
    if len(medians) > 1 and whole > 0:
        details = tuple(f"{_STAGES[name]} {number(ms)} ms ({share(ms / whole)} %)" for name, ms in medians.items())
        who = names.label(measured.artefact)
        yield Figure(_TIME_SPENT, number(whole), "ms", who, details, "measured", component)


def _why(best: Point, equals: Sequence[Point]) -> list[str]:
    """What hides a difference, besides that it is small."""
    if best.evidence == "estimated":
        return ["their bands overlap"]
    others = [each.result for each in equals if each is not best]
    found = [
        ratio(best.result, each).caveats
        for each in others
        if isinstance(best.result, Measured) and isinstance(each, Measured)
    ]
    return list(dict.fromkeys(caveat for caveats in found for caveat in caveats))


def _several(artefacts: Sequence[Artefact], of: Collection[Artefact], names: Names) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`; `all 7 artefacts` where there are no others."""
    labels = [names.label(each) for each in artefacts]
    if 1 < len(artefacts) == len(of):
        several = len({each.model for each in names.artefacts}) > 1
        return _all(len(of)) + (f" of {one_line(artefacts[0].model)}" if several else "")
    if len(labels) <= _NAMED + 1:
        return listed(labels)
    return listed([*labels[:_NAMED], f"{len(labels) - _NAMED} more"])


def _times_slower(best: Point, other: Point) -> float:
    if isinstance(best.result, Measured) and isinstance(other.result, Measured):
        return ratio(best.result, other.result).middle
    return other.middle_ms / best.middle_ms


def _is_plain(point: Point, best: Point) -> bool:
    """Whether it is the same model on the same target as it was before compression."""
    one, other = point.artefact, best.artefact
    return (one.model, one.target, one.recipe) == (other.model, other.target, "fp32")


def _fewest(results: Sequence[Result], component: str, names: Names) -> Figure | None:
    """The fewest instructions, where nothing tells the time."""
    found = [
        (each.counts.instructions, index, each)
        for index, each in enumerate(results)
        if isinstance(each, Emulated) and each.component == component and each.counts is not None
    ]
    if not found:
        return None
    least = min(found)[0]
    equals = [each for instructions, _, each in found if instructions <= least * (1 + _COUNT_ERROR)]
    return Figure(
        "fewest instructions",
        number(least / 1e6),
        "million",
        _several([each.artefact for each in equals], {each.artefact for _, _, each in found}, names),
        (*(["no difference beyond the counts' error"] if len(equals) > 1 else []), "no latency is known"),
        "emulated",
        one_line(component),
        shared=len(equals) > 1,
    )


def _smallest(results: Sequence[Measured | Emulated | Estimated], names: Names) -> Figure:
    found = [each.artefact for each in results]
    best = min(_ours(found), key=lambda each: each.size_bytes)
    details = [] if best.accuracy is None else [f"centred cosine {cosine(best.accuracy)}"]
    rival = min(found, key=lambda each: each.size_bytes)
    if rival.size_bytes < best.size_bytes:
        details.append(f"a peer is smaller: {names.label(rival)}, {megabytes(rival.size_bytes)} MB")
    return Figure("smallest", megabytes(best.size_bytes), "MB", names.label(best), tuple(details), None)


def _fit(results: Sequence[Result], names: Names) -> Figure:
    """Whether everything ran in the device's memory: on an emulated machine that has as much, or on itself."""
    tried = [each for each in results if isinstance(each, Emulated) and each.fits is not None]
    if tried:
        bad = list(dict.fromkeys(names.label(each.artefact) for each in tried if not each.fits))
        of = len({each.artefact for each in tried})
        limits = sorted({each.memory_limit_bytes for each in tried if each.memory_limit_bytes is not None})
        where = f" in {listed([megabytes(each) for each in limits])} MB" if limits else ""
        value = "yes" if not bad else "no" if len(bad) == of else f"{of - len(bad)} of {of}"
        some = "the one artefact" if of == 1 else f"of {of} artefacts, {listed(bad)}"
        where += " of an emulated Linux board"
        said = f"{some} did not run{where}" if bad else f"{_all(of)} ran{where}"
        return Figure("fits", value, "", "", (said, *_peak(tried)), evidence(tried[0]))
    measured = [each for each in results if isinstance(each, Measured)]
    if measured:
        ran = {each.artefact for each in measured}
        asked = ran | {each.artefact for each in results if isinstance(each, Failed) and each.artefact is not None}
        missing = sorted(names.label(each) for each in asked - ran)
        value = f"{len(ran)} of {len(asked)}" if missing else "yes"
        said = f"of {len(asked)} artefacts, {listed(missing)} did not run" if missing else f"{_all(len(ran))} ran"
        return Figure("fits", value, "", "", (f"{said} on the device itself", *_peak(measured)), "measured")
    return Figure("fits", "not known", "", "", ("not tried in the device's memory",), None)


def _failed(results: Sequence[Result], names: Names) -> Figure | None:
    failed = [each for each in results if isinstance(each, Failed)]
    if not failed:
        return None
    first = failed[0]
    who = "" if first.artefact is None else f"{names.label(first.artefact)}: "
    hint = f" ({shortened(one_line(first.hint), 120)})" if first.hint else ""
    details = [
        f"{who}{shortened(one_line(first.message), 200)}{hint}",
        *([f"and {len(failed) - 1} more"] if len(failed) > 1 else []),
    ]
    return Figure("failed", f"{len(failed)} of {len(results)}", "", "", tuple(details), "none")


def _all(several: int) -> str:
    return {1: "the one artefact", 2: "both artefacts"}.get(several, f"all {several} artefacts")


def _peak(results: Sequence[Measured | Emulated]) -> tuple[str, ...]:
    """The memory of the artefact that adds most."""
    known = [each.memory for each in results if each.memory is not None]
    return (f"at most {own_memory(max(known, key=lambda each: each.own_bytes))}",) if known else ()
