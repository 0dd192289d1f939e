"""Research: runs the terms of a clause against an index and ranks what comes back."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator_svc.agents.corpus.clause import points_back
from orchestrator_svc.agents.corpus.facet import Facet, facet_order
from orchestrator_svc.agents.corpus.ranking import (
    LOOSE_TOPIC,
    MIN_TOPIC,
    Excerpt,
    Weighed,
    rank_excerpts,
    rank_sections,
)
from orchestrator_svc.agents.corpus.section import Section
from orchestrator_svc.agents.corpus.terms import (
    Form,
    Term,
    clause_terms,
    importance,
    labels,
    match_query,
    settle_forms,
)

HITS = 150  #: sections taken from each query
RARE_SHARE = 0.02  #: a word in at most this share of the sections names a subject by itself
RARE_SECTIONS = 2  #: … and so does a word in at most this many sections


class Searchable(Protocol):
    """What research needs of an index."""

    section_count: int

    def search(self, query: str, limit: int) -> list[int]:
        """Return ids of matching sections, best first."""

    def count(self, query: str) -> int:
        """Return how many sections match."""

    def sections(self, ids: Iterable[int]) -> Iterator[tuple[int, Section]]:
        """Return the sections of `ids`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the corpus holds about one clause."""

    terms: tuple[str, ...]  #: labels of the terms searched, own ones first
    section_count: int  #: sections that are evidence
    excerpts: tuple[Excerpt, ...]

    def facets(self, clause: str) -> list[Facet]:
        """Return the facets that have evidence, in the order in which they answer `clause`."""
        held = {excerpt.facet for excerpt in self.excerpts}
        return [facet for facet in facet_order(clause) if facet in held]

    def of(self, facet: Facet) -> list[Excerpt]:
        """Return the excerpts that serve `facet`, best first."""
        return [excerpt for excerpt in self.excerpts if excerpt.facet is facet]


def investigate(index: Searchable, clause: str, earlier: Sequence[str]) -> Evidence:
    """Search the corpus for `clause`, which follows the clauses `earlier`; blocks."""

    def occurs(form: Form) -> bool:
        return index.count(f'"{" ".join(form)}"') > 0

    terms = settle_forms(clause_terms(clause, earlier), occurs)
    if not terms:
        return Evidence((), 0, ())
    counts = [index.count(match_query([term])) for term in terms]
    weighed = [
        Weighed(
            term,
            importance(term, count, index.section_count),
            subject=term.strong and _is_subject(index, term, count),
        )
        for term, count in zip(terms, counts, strict=True)
    ]
    common = max(RARE_SECTIONS, RARE_SHARE * index.section_count)
    named = any(
        item.subject or (item.term.strong and 0 < count <= common)
        for item, count in zip(weighed, counts, strict=True)
    )
    found = dict.fromkeys(
        number for query in _queries(terms) for number in index.search(query, HITS)
    )
    least_topic = LOOSE_TOPIC if points_back(clause) else 0.0 if named else MIN_TOPIC
    ranked = rank_sections(
        (section for _, section in index.sections(list(found))), weighed, least_topic=least_topic
    )
    excerpts = rank_excerpts(ranked, weighed)
    return Evidence(tuple(labels(terms)), len(ranked), tuple(excerpts))


def _is_subject(index: Searchable, term: Term, count: int) -> bool:
    """Return whether `term`, found in `count` sections, names a thing rather than a property.

    It does when it is written as a name, or stands in names of sections more often than not.
    """
    if not count:
        return False
    return term.proper or index.count(f"name : ({match_query([term])})") * 2 >= count


def _queries(terms: Sequence[Term]) -> list[str]:
    """Return the queries to run: all topic terms together, each two and each one, any term."""
    topic = [term for term in terms if term.strong or not term.own][:6]
    queries = [match_query(topic, every=True, wide=True)] if len(topic) > 2 else []
    for pair in itertools.combinations(topic, 2):
        queries += [match_query(pair, every=True), match_query(pair, every=True, wide=True)]
    queries += [match_query([term]) for term in topic]
    return [*queries, match_query(terms)]
