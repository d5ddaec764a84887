"""What matters first about a device, in words and a few figures: the fastest, the smallest, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgevlm.bench.report.fronts import Point, points
from edgevlm.bench.report.wording import Names, cosine, listed, megabytes, number, one_line, shortened, threads
from edgevlm.bench.results import Artefact, Emulated, Estimated, Evidence, Failed, Measured, Result, evidence


@dataclass(frozen=True)
class Figure:
    """A key figure.

    Attributes:
        name: What it is: `fastest`, `fewest instructions`, `smallest`, `fits`, `failed`.
        value: As text.
        unit: Of the value; empty for words.
        who: The artefact that it belongs to; empty where it belongs to none.
        details: What else there is to know, each a short phrase.
        evidence: How it came about; None for what needs none, such as a file's size.
        component: What it is of; empty for all.
    """

    name: str
    value: str
    unit: str
    who: str
    details: tuple[str, ...]
    evidence: Evidence | None
    component: str = ""

    @property
    def title(self) -> str:
        """Its name, and of what it is."""
        if not self.component:
            return self.name
        return f"{self.name} {'at' if self.name == 'fastest' else 'for'} {self.component}"


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
    components = dict.fromkeys(each.component for each in results)
    fastest = {one: _fastest(results, one, names) for one in components}
    yield from (each for each in fastest.values() if each)
    yield from (each for one in components if not fastest[one] and (each := _fewest(results, one, names)))
    yield _smallest(results, names)


def _words(figures: Sequence[Figure], results: Sequence[Result], names: Names, several: bool) -> str:
    """The figures without their numbers: who leads in what, what that costs, what does not work.

    Args:
        several: Whether there are several models.
    """
    sentences = []
    among = ", of its model," if several else ""
    for who in dict.fromkeys(each.who for each in figures if each.who):
        own = [each for each in figures if each.who == who]
        claims = _claims(own, among)
        if who in _least_accurate(results, names):
            claims.append("the least accurate")
        sentences.append(f"{who} {listed(claims)}")
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


def _least_accurate(results: Sequence[Result], names: Names) -> set[str]:
    """Who keeps least of a model's answers, of each model with several artefacts of known accuracy."""
    found = {each.artefact for each in results if each.artefact is not None and each.artefact.accuracy is not None}
    least = set()
    for model in {each.model for each in found}:
        known = {each: each.accuracy or 0.0 for each in found if each.model == model}
        if len(set(known.values())) > 1:
            least |= {names.label(each) for each, accuracy in known.items() if accuracy == min(known.values())}
    return least


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _ours(artefacts: Sequence[Artefact]) -> list[Artefact]:
    """Those that are not another toolchain's, where there are any."""
    return [each for each in artefacts if not each.peer] or list(artefacts)


def _fastest(results: Sequence[Result], component: str, names: Names) -> Figure | None:
    """The least latency; among estimates only where nothing was measured."""
    among = [each for each in points(results) if each.component == component]
    among = [each for each in among if each.evidence == "measured"] or among
    if not among:
        return None
    ours = set(_ours([each.artefact for each in among]))
    ranked = sorted(among, key=lambda each: each.middle_ms)
    best = next(each for each in ranked if each.artefact in ours)
    details = [threads(best.threads)]
    if best.artefact.accuracy is not None:
        details.append(f"cosine {cosine(best.artefact.accuracy)}")
    plain = next((each for each in ranked if _is_plain(each, best)), None)
    if plain is not None and plain is not best:
        details.append(f"{number(plain.middle_ms / best.middle_ms, 2)} times as fast as fp32")
    if best.evidence == "estimated":
        details.insert(0, f"between {number(best.low_ms)} and {number(best.high_ms)} ms")
        rivals = [each for each in ranked if each is not best and each.low_ms <= best.high_ms]
        if rivals:
            details.append(f"not surely: the bands of {len(rivals)} more overlap with its own")
    elif any(each is not best and each.low_ms <= best.middle_ms for each in ranked):
        details.append("not surely: another was as fast at times")
    if ranked[0] is not best:
        rival = ranked[0]
        details.append(f"a peer is faster: {names.label(rival.artefact)}, {number(rival.middle_ms)} ms")
    return Figure(
        "fastest",
        number(best.middle_ms),
        "ms",
        names.label(best.artefact),
        tuple(details),
        best.evidence,
        one_line(component),
    )


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
    instructions, _, best = min(found)
    return Figure(
        "fewest instructions",
        number(instructions / 1e6),
        "million",
        names.label(best.artefact),
        ("no latency is known",),
        "emulated",
        one_line(component),
    )


def _smallest(results: Sequence[Measured | Emulated | Estimated], names: Names) -> Figure:
    found = [each.artefact for each in results]
    best = min(_ours(found), key=lambda each: each.size_bytes)
    details = [] if best.accuracy is None else [f"cosine {cosine(best.accuracy)}"]
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
    peaks = [each.memory.anonymous_bytes for each in results if each.memory is not None]
    return (f"at most {megabytes(max(peaks))} MB anonymous",) if peaks else ()
