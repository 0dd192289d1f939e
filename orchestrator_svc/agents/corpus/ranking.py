"""Ranking: which sections, and which sentences in them, answer the terms of a clause. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator_svc.agents.corpus.excerpt import Span, span_around
from orchestrator_svc.agents.corpus.facet import Facet, facet_of
from orchestrator_svc.agents.corpus.section import Kind, Section
from orchestrator_svc.agents.corpus.sentence import Sentence, sentences
from orchestrator_svc.agents.corpus.terms import WEAK, Term
from orchestrator_svc.agents.corpus.words import stems

MIN_SHARE = 0.5  #: a section is evidence when it holds more than this share of the terms' worth
MIN_TOPIC = 0.6  #: share of the inherited terms, where a clause means nothing without them
LOOSE_TOPIC = 0.15  #: the same, where a pronoun stands for one of the inherited terms
KEPT_SECTIONS = 40  #: best sections whose sentences are looked at
RELATIVE_CUT = 0.6  #: an excerpt below this share of the best one is not evidence
WIDER_CUT = 0.35  #: the same while there are fewer than `ENOUGH`, for public documentation only
ENOUGH = 4
IN_NAME = 0.7  #: worth of a term that only the section's name says
IN_TAIL = 0.9  #: the same for the last part of the name, which is what the section is about
NEARBY = 0.35  #: worth of a term that only a neighbouring sentence says

_KIND_PRIOR = {Kind.COMMENT: 0.7}
_PRIVATE_PRIOR = 0.8
_USUAL_LENGTH = 60.0  #: stems of a section of ordinary length
_NEAR = 12  #: stems within which terms count as standing together


@dataclass(frozen=True, slots=True)
class Weighed:
    """A term with what a match of it is worth in this corpus."""

    term: Term
    worth: float
    subject: bool = False  #: a topic word that names a thing: a module, a class, a term of art


@dataclass(frozen=True, slots=True)
class RankedSection:
    """A section that holds enough of the terms to be evidence."""

    section: Section
    score: float
    topic_share: float = 1.0  #: the part of the inherited terms that it holds


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


@dataclass(slots=True)
class _Tally:
    """What a section holds of the terms, in worth."""

    own: float = 0.0
    own_total: float = 0.0
    topic: float = 0.0  #: inherited terms
    topic_total: float = 0.0
    score: float = 0.0
    speaks: bool = False  #: holds a topic word of the clause itself
    on_subject: bool = False  #: holds a word that names a subject

    @property
    def share(self) -> float:
        """The part of all the worth that the section holds."""
        total = self.own_total + self.topic_total
        return (self.own + self.topic) / total if total else 0.0

    @property
    def topic_share(self) -> float:
        """The part of the inherited terms' worth that the section holds; 1 without such terms."""
        return self.topic / self.topic_total if self.topic_total else 1.0


def rank_sections(
    found: Iterable[Section], weighed: Sequence[Weighed], *, least_topic: float = 0.0
) -> list[RankedSection]:
    """Return the sections that are evidence, best first; equal ones in order of place.

    A section must hold more than `MIN_SHARE` of the clause's own terms, `least_topic` of what the
    clause inherits, and a subject if the clause names any.
    """
    has_subject = any(item.subject for item in weighed)
    ranked: list[RankedSection] = []
    for section in found:
        tally = _tally(section, weighed)
        if not tally.speaks or tally.own <= MIN_SHARE * tally.own_total:
            continue
        if has_subject and not tally.on_subject:
            continue
        if tally.topic_share >= least_topic:
            score = tally.score * tally.share * _prior(section)
            ranked.append(RankedSection(section, score, tally.topic_share))
    ranked.sort(key=lambda one: (-one.score, one.section.path, one.section.start))
    return ranked


def _tally(section: Section, weighed: Sequence[Weighed]) -> _Tally:
    body, name, tail = stems(section.text), _name_stems(section), _tail_stems(section)
    length = 0.6 + 0.6 * len(body) / _USUAL_LENGTH
    tally = _Tally()
    spots: list[list[int]] = []
    for item in weighed:
        term = item.term
        places, named = term.places(body), term.match(name)
        match = 1.0 if places else max(named, term.match(body))
        if term.own:
            tally.own += match * item.worth
            tally.own_total += item.worth if term.weight > WEAK or match else 0.0
            tally.speaks = tally.speaks or (term.strong and match > 0.0)
            tally.on_subject = tally.on_subject or (item.subject and match == 1.0)
        else:
            tally.topic += match * item.worth
            tally.topic_total += item.worth
        saturation = len(places) / (len(places) + length) if places else 0.3 * match
        tally.score += item.worth * (saturation + 0.6 * named + 0.7 * term.match(tail))
        if places:
            spots.append(places)
    tally.score *= _closeness(spots)
    return tally


def rank_excerpts(ranked: Sequence[RankedSection], weighed: Sequence[Weighed]) -> list[Excerpt]:
    """Return the excerpts of the best sections, best first, none overlapping another."""
    used: set[tuple[int, int]] = set()  # section, sentence
    excerpts: list[Excerpt] = []
    wider: list[Excerpt] = []  # those that may be weak
    best = 0.0
    for spot in _spots(ranked[:KEPT_SECTIONS], weighed):
        if spot.score < (RELATIVE_CUT if len(excerpts) >= ENOUGH else WIDER_CUT) * best:
            break  # an excerpt never scores more than its sentence
        section = ranked[spot.order].section
        if spot.score < RELATIVE_CUT * best and not _wider(ranked[spot.order]):
            continue
        span = span_around(spot.prose, spot.at, section.kind)
        if span is None:
            continue
        keys = {(spot.order, i) for i in range(span.first, span.last + 1)}
        if keys & used:
            continue
        used |= keys
        excerpt = _excerpt(section, spot, span, weighed)
        excerpts.append(excerpt)
        if _wider(ranked[spot.order]):
            wider.append(excerpt)
        best = max(best, excerpt.score)
    excerpts.sort(key=lambda one: (-one.score, one.section.path, one.start, one.end))
    close = [excerpt for excerpt in excerpts if excerpt.score >= RELATIVE_CUT * best]
    if len(close) >= ENOUGH:
        return close
    return [one for one in excerpts if one in close or one in wider][:ENOUGH]


@dataclass(frozen=True, slots=True)
class _Spot:
    """A sentence that speaks to the clause."""

    score: float
    order: int  #: rank of its section
    at: int  #: its place in `prose`
    prose: Sequence[Sentence]


def _spots(ranked: Sequence[RankedSection], weighed: Sequence[Weighed]) -> list[_Spot]:
    """Return the sentences of `ranked` that speak to the terms, best first."""
    spots: list[_Spot] = []
    for order, one in enumerate(ranked):
        prose = sentences(one.section)
        tokens = [stems(sentence.text) for sentence in prose]
        name, tail = _name_stems(one.section), _tail_stems(one.section)
        for at in range(len(prose)):
            relevance = _relevance(prose, tokens, at, name, tail, weighed)
            if relevance > 0.0:
                score = relevance * _prior(one.section) * (1.0 if _opens(prose[at]) else 0.9)
                score = 0.8 * score + 0.2 * one.score / ranked[0].score
                spots.append(_Spot(score, order, at, prose))
    spots.sort(key=lambda spot: (-spot.score, spot.order, spot.at))
    return spots


def _excerpt(section: Section, spot: _Spot, span: Span, weighed: Sequence[Weighed]) -> Excerpt:
    chosen = spot.prose[span.first : span.last + 1]
    text = " ".join(sentence.text for sentence in chosen)
    facet, clarity = facet_of(spot.prose[spot.at].text, opens=_opens(chosen[0]), kind=section.kind)
    return Excerpt(
        section=section,
        text=text,
        start=chosen[0].start,
        end=chosen[-1].end,
        facet=facet,
        score=round(spot.score * (0.85 + 0.15 * clarity), 4),
        matched=_matched(stems(text) + _name_stems(section), weighed),
    )


def _opens(sentence: Sentence) -> bool:
    return sentence.paragraph == 0 and sentence.position == 0


def _relevance(
    prose: Sequence[Sentence],
    tokens: Sequence[list[str]],
    at: int,
    name: list[str],
    tail: list[str],
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
        term = item.term
        said, titled = term.match(tokens[at]), term.match(tail)
        match = max(said, IN_TAIL * titled, IN_NAME * term.match(name), NEARBY * term.match(near))
        total += item.worth if term.weight > WEAK or match else 0.0
        covered += match * item.worth
        speaks = speaks or (term.strong and max(said, titled) > 0.0)
    return covered / total if speaks and total else 0.0


def _matched(tokens: list[str], weighed: Sequence[Weighed]) -> tuple[str, ...]:
    return tuple(item.term.label for item in weighed if item.term.match(tokens))


def _name_stems(section: Section) -> list[str]:
    return stems(f"{section.path.rsplit('.', 1)[0]} {section.name}")


def _tail_stems(section: Section) -> list[str]:
    separator = " > " if section.kind in (Kind.HEADING, Kind.TEXT) else "."
    return stems(section.name.rsplit(separator, 1)[-1])


def _wider(ranked: RankedSection) -> bool:
    """Return whether a weak excerpt may come from here: public documentation of the same topic."""
    return _prior(ranked.section) == 1.0 and ranked.topic_share >= MIN_TOPIC


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
