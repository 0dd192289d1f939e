"""Findings: quotes sorted by clause and facet, and how several findings become one. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator_svc.agents.corpus.messages import Quote
from orchestrator_svc.agents.corpus.terms import own_terms
from orchestrator_svc.agents.corpus.words import stems

SAME = 0.75  #: share of common stems from which two quotes say the same

_END = re.compile(r"(?<=[.!?]) ")


@dataclass(frozen=True, slots=True)
class Passage:
    """The quotes of one facet."""

    heading: str
    quotes: tuple[Quote, ...]


@dataclass(frozen=True, slots=True)
class ClauseFindings:
    """What was found about one clause, and what was not."""

    heading: str
    passages: tuple[Passage, ...] = ()
    gaps: tuple[str, ...] = ()  #: sentences that name what could not be answered


Findings = tuple[ClauseFindings, ...]


def alike(one: Quote, other: Quote) -> bool:
    """Return whether two quotes say the same, so that a reader needs only one."""
    left, right = set(stems(one.text)), set(stems(other.text))
    if not left or not right:
        return one.text == other.text
    common = len(left & right)
    overlap = (
        one.path == other.path
        and one.start_line <= other.end_line
        and other.start_line <= one.end_line
    )
    if overlap and set(_END.split(one.text)) & set(_END.split(other.text)):
        return True
    return common / len(left | right) >= SAME


def without_repeats(quotes: Iterable[Quote]) -> list[Quote]:
    """Return `quotes` without those that repeat an earlier one."""
    kept: list[Quote] = []
    for quote in quotes:
        if not any(alike(quote, other) for other in kept):
            kept.append(quote)
    return kept


def merge(parts: Sequence[Findings]) -> Findings:
    """Join findings: equal clauses and facets become one, repeated quotes are kept once.

    A quote that several clauses claim stays where it covers most of the clause's own words, among
    equals with the first. Passages and clauses left empty disappear, unless they name a gap.
    """
    clauses: dict[str, dict[str, list[Quote]]] = {}
    gaps: dict[str, dict[str, None]] = {}
    for part in parts:
        for clause in part:
            passages = clauses.setdefault(clause.heading, {})
            gaps.setdefault(clause.heading, {}).update(dict.fromkeys(clause.gaps))
            for passage in clause.passages:
                passages.setdefault(passage.heading, []).extend(passage.quotes)
    claims = [
        (fit(heading, quote), heading, facet, quote)
        for heading, passages in clauses.items()
        for facet, quotes in passages.items()
        for quote in quotes
    ]
    kept: list[tuple[str, str, Quote]] = []
    for _, heading, facet, quote in sorted(claims, key=lambda claim: -claim[0]):
        if not any(alike(quote, other) for _, _, other in kept):
            kept.append((heading, facet, quote))
    merged: list[ClauseFindings] = []
    for heading, passages in clauses.items():
        left = [
            Passage(facet, tuple(q for q in quotes if (heading, facet, q) in kept))
            for facet, quotes in passages.items()
        ]
        found = tuple(
            replace(passage, quotes=tuple(dict.fromkeys(passage.quotes)))
            for passage in left
            if passage.quotes
        )
        if found or gaps[heading]:
            merged.append(ClauseFindings(heading, found, tuple(gaps[heading])))
    return tuple(merged)


def all_quotes(findings: Findings) -> list[Quote]:
    """Return every quote of `findings` in order."""
    return [quote for clause in findings for passage in clause.passages for quote in passage.quotes]


def fit(heading: str, quote: Quote, *, named: float = 0.0) -> float:
    """Return the share of the clause's own topic words that `quote` says.

    A word that only the name of the quoted section says counts as `named`.
    """
    asked = [term for term in own_terms(heading) if term.strong]
    if not asked:
        return 0.0
    said, name = stems(quote.text), stems(quote.name)
    return sum(max(term.match(said), named * term.match(name)) for term in asked) / len(asked)
