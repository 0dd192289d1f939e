"""Ranking: which sections, and which sentences in them, answer the terms of a clause. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator_svc.agents.corpus.excerpt import span_around
from orchestrator_svc.agents.corpus.facet import Facet, facet_of
from orchestrator_svc.agents.corpus.section import Kind, Section
from orchestrator_svc.agents.corpus.sentence import Sentence, sentences
from orchestrator_svc.agents.corpus.terms import Term
from orchestrator_svc.agents.corpus.words import places_of_run, stems

MIN_SHARE = 0.55  #: share of the terms' importance that a section must hold to be evidence
KEPT_SECTIONS = 40  #: best sections whose sentences are looked at
RELATIVE_CUT = 0.5  #: an excerpt below this share of the best one is not evidence
IN_NAME = 0.7  #: worth of a term that only the section's name says
NEARBY = 0.35  #: worth of a term that only a neighbouring sentence says

_KIND_PRIOR = {Kind.COMMENT: 0.75}
_PRIVATE_PRIOR = 0.88
_USUAL_LENGTH = 60.0  #: stems of a section of ordinary length
_NEAR = 12  #: stems within which terms count as standing together


@dataclass(frozen=True, slots=True)
class Weighed:
    """A term with what a match of it is worth in this corpus."""

    term: Term
    worth: float


@dataclass(frozen=True, slots=True)
class RankedSection:
    """A section that holds enough of the terms to be evidence."""

    section: Section
    score: float


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A quotable span of a section."""

    section: Section
    text: str
    start: int
    end: int
    facet: Facet
    score: float
    matched: tuple[str, ...]  #: labels of the terms in the span or in the section's name


def rank_sections(found: Iterable[Section], weighed: Sequence[Weighed]) -> list[RankedSection]:
    """Return the sections that are evidence, best first; equal ones in order of place."""
    total = sum(item.worth for item in weighed)
    ranked: list[RankedSection] = []
    for section in found:
        body, name = stems(section.text), _name_stems(section)
        tail = stems(section.name.rsplit(".", 1)[-1].rsplit(" > ", 1)[-1])
        held = score = 0.0
        spots: list[list[int]] = []
        own = topic = False
        for item in weighed:
            places = [p for form in item.term.forms for p in places_of_run(body, form)]
            named = any(places_of_run(name, form) for form in item.term.forms)
            if not places and not named:
                continue
            held += item.worth
            saturation = len(places) / (len(places) + 0.6 + 0.6 * len(body) / _USUAL_LENGTH)
            score += item.worth * (saturation + (0.6 if named else 0.0))
            if any(places_of_run(tail, form) for form in item.term.forms):
                score += 0.7 * item.worth
            if places:
                spots.append(places)
            own = own or item.term.strong
            topic = topic or not item.term.own
        if not own or not total or held / total < MIN_SHARE:
            continue
        share = held / total
        ranked.append(RankedSection(section, score * share * _closeness(spots) * _prior(section)))
    ranked.sort(key=lambda one: (-one.score, one.section.path, one.section.start))
    return ranked


def rank_excerpts(ranked: Sequence[RankedSection], weighed: Sequence[Weighed]) -> list[Excerpt]:
    """Return the excerpts of the best sections, best first, none overlapping another."""
    if not ranked:
        return []
    best_section = ranked[0].score
    scored: list[tuple[float, int, int, list[Sentence], Section]] = []
    for order, one in enumerate(ranked[:KEPT_SECTIONS]):
        section = one.section
        prose = sentences(section)
        tokens = [stems(sentence.text) for sentence in prose]
        name = _name_stems(section)
        for at in range(len(prose)):
            relevance = _relevance(prose, tokens, at, name, weighed)
            if relevance <= 0.0:
                continue
            opens = prose[at].paragraph == 0 and prose[at].position == 0
            score = relevance * _prior(section) * (1.0 if opens else 0.9)
            score = 0.8 * score + 0.2 * one.score / best_section
            scored.append((score, order, at, prose, section))
    scored.sort(key=lambda item: (-item[0], item[1], item[2]))
    used: set[tuple[str, int, int]] = set()
    excerpts: list[Excerpt] = []
    for score, order, at, prose, section in scored:
        if excerpts and score < RELATIVE_CUT * excerpts[0].score:
            break
        span = span_around(prose, at, section.kind)
        if span is None:
            continue
        keys = {(section.path, order, i) for i in range(span.first, span.last + 1)}
        if keys & used:
            continue
        used |= keys
        chosen = prose[span.first : span.last + 1]
        text = " ".join(sentence.text for sentence in chosen)
        opens = chosen[0].paragraph == 0 and chosen[0].position == 0
        facet, clarity = facet_of(prose[at].text, opens=opens, kind=section.kind)
        excerpts.append(
            Excerpt(
                section=section,
                text=text,
                start=chosen[0].start,
                end=chosen[-1].end,
                facet=facet,
                score=round(score * (0.85 + 0.15 * clarity), 4),
                matched=_matched(stems(text) + _name_stems(section), weighed),
            )
        )
    excerpts.sort(key=lambda one: (-one.score, one.section.path, one.start, one.end))
    return excerpts


def _relevance(
    prose: Sequence[Sentence],
    tokens: Sequence[list[str]],
    at: int,
    name: list[str],
    weighed: Sequence[Weighed],
) -> float:
    """Return the share of the terms that sentence `at` covers, 0 when it names no topic itself."""
    near = [
        token
        for i in (at - 1, at + 1)
        if 0 <= i < len(prose) and prose[i].paragraph == prose[at].paragraph
        for token in tokens[i]
    ]
    total = covered = 0.0
    speaks = False
    for item in weighed:
        total += item.worth
        forms = item.term.forms
        if any(places_of_run(tokens[at], form) for form in forms):
            covered += item.worth
            speaks = speaks or item.term.strong
        elif any(places_of_run(name, form) for form in forms):
            covered += IN_NAME * item.worth
        elif any(places_of_run(near, form) for form in forms):
            covered += NEARBY * item.worth
    return covered / total if speaks else 0.0


def _matched(tokens: list[str], weighed: Sequence[Weighed]) -> tuple[str, ...]:
    return tuple(
        item.term.label
        for item in weighed
        if any(places_of_run(tokens, form) for form in item.term.forms)
    )


def _name_stems(section: Section) -> list[str]:
    return stems(f"{section.path.rsplit('.', 1)[0]} {section.name}")


def _prior(section: Section) -> float:
    prior = _KIND_PRIOR.get(section.kind, 1.0)
    parts = section.name.split(".")
    if any(part.startswith("_") and not part.endswith("__") for part in parts):
        prior *= _PRIVATE_PRIOR
    return prior


def _closeness(spots: Sequence[list[int]]) -> float:
    """Return 1 to 1.3: higher the more of the terms stand within a few words of each other."""
    if len(spots) < 2:
        return 1.0
    best = 1
    for at in spots[0]:
        best = max(best, sum(any(abs(at - p) <= _NEAR for p in places) for places in spots))
    for at in spots[-1]:
        best = max(best, sum(any(abs(at - p) <= _NEAR for p in places) for places in spots))
    return 1.0 + 0.3 * (best - 1) / (len(spots) - 1)
