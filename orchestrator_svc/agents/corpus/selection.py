"""Selection: evidence as SEARCH reports it, and the choice that THINK makes of it. No I/O."""

from __future__ import annotations

from orchestrator_svc.agents.corpus.clause import as_heading
from orchestrator_svc.agents.corpus.facet import Facet
from orchestrator_svc.agents.corpus.findings import ClauseFindings, Findings, Passage, alike
from orchestrator_svc.agents.corpus.messages import (
    Candidates,
    CandidateSection,
    Quote,
    Selection,
)
from orchestrator_svc.agents.corpus.ranking import Excerpt
from orchestrator_svc.agents.corpus.research import Evidence

MAX_CANDIDATES = 20  #: quotes that SEARCH hands on
MAX_SELECTED = 4  #: quotes that THINK chooses for a facet
MAX_PER_SECTION = 2  #: of them from one section

GENERAL = "What the corpus says"  #: heading of a passage that is not about one facet


def candidates(evidence: Evidence, clause: str, facet: Facet | None) -> Candidates | None:
    """Return what `evidence` offers for `facet` (all facets if None); None when nothing."""
    excerpts = list(evidence.excerpts) if facet is None else evidence.of(facet)
    sections: dict[tuple[str, int], list[Excerpt]] = {}
    for excerpt in excerpts[:MAX_CANDIDATES]:
        place = (excerpt.section.path, excerpt.section.start)
        sections.setdefault(place, []).append(excerpt)
    if not sections:
        return None
    return Candidates(
        clause=clause,
        facet=facet,
        terms=evidence.terms,
        sections_matched=evidence.section_count,
        sections=tuple(
            CandidateSection(
                path=group[0].section.path,
                name=group[0].section.name,
                kind=group[0].section.kind,
                start_line=group[0].section.start,
                end_line=group[0].section.end,
                quotes=tuple(_quote(excerpt) for excerpt in group),
            )
            for group in sections.values()
        ),
    )


def select(found: Candidates) -> Selection:
    """Return the best quotes of `found`, without repeats and not all from one section."""
    quotes = sorted(
        (quote for section in found.sections for quote in section.quotes),
        key=lambda quote: (-quote.score, quote.path, quote.start_line),
    )
    chosen: list[Quote] = []
    repeats = 0
    for quote in quotes:
        if len(chosen) == MAX_SELECTED:
            break
        if any(alike(quote, other) for other in chosen):
            repeats += 1
            continue
        same = sum((quote.path, quote.name) == (other.path, other.name) for other in chosen)
        if same < MAX_PER_SECTION:
            chosen.append(quote)
    return Selection(
        clause=found.clause,
        facet=found.facet,
        terms=found.terms,
        basis=_basis(found, chosen, len(quotes), repeats),
        quotes=tuple(_together(chosen)),
    )


def findings_of(selection: Selection) -> Findings:
    """Return `selection` as findings under its clause and facet."""
    heading = selection.facet.heading if selection.facet else GENERAL
    passage = Passage(heading, selection.quotes)
    return (ClauseFindings(as_heading(selection.clause), (passage,)),)


def _quote(excerpt: Excerpt) -> Quote:
    return Quote(
        text=excerpt.text,
        path=excerpt.section.path,
        start_line=excerpt.start,
        end_line=excerpt.end,
        name=excerpt.section.name,
        kind=excerpt.section.kind,
        score=excerpt.score,
        terms=excerpt.matched,
    )


def _together(quotes: list[Quote]) -> list[Quote]:
    """Return `quotes` with those of one section side by side, in the order of the file."""
    groups: dict[tuple[str, str], list[Quote]] = {}
    for quote in quotes:
        groups.setdefault((quote.path, quote.name), []).append(quote)
    return [q for group in groups.values() for q in sorted(group, key=lambda q: q.start_line)]


def _basis(found: Candidates, chosen: list[Quote], offered: int, repeats: int) -> str:
    counts = {
        term: sum(term in quote.terms for quote in chosen)
        for term in found.terms
        if any(term in quote.terms for quote in chosen)
    }
    matched = ", ".join(f"{term} ({count})" for term, count in counts.items())
    dropped = f", {repeats} of the others repeat one of these" if repeats else ""
    return (
        f"{len(chosen)} of {offered} quotes chosen by the share of the question's terms they cover"
        f"{dropped}. Terms matched, with the number of chosen quotes: {matched}. "
        f"The quotes are extracts; nothing is added to them."
    )
