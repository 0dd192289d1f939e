"""Terms: what a clause asks about, in the forms under which the corpus may say it. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from orchestrator_svc.agents.corpus.clause import points_back
from orchestrator_svc.agents.corpus.thesaurus import related
from orchestrator_svc.agents.corpus.words import (
    MAX_ORDINARY_LETTERS,
    STOP_WORDS,
    WEAK_WORDS,
    count_run,
    places_of_run,
    stem,
    stems,
)

MAX_TERMS = 12  #: own terms of a clause; the first ones count
MAX_INHERITED = 6  #: topic terms taken over from earlier clauses
WEAK = 0.25  #: weight of a word that says little
ELLIPTIC = 0.6  #: weight of an inherited term where the clause cannot stand alone
COMPANION = 0.35  #: weight of an inherited term where it can
RELATED = 0.6  #: worth of a related word, as a share of the word itself
IDF_CAP = 6.0  #: rarer words count no more than this, unknown ones included

Form = tuple[str, ...]  #: consecutive stems

_CHUNK = re.compile(r'"([^"]+)"|([^\W_]+(?:_+[^\W_]+)*)')


@dataclass(frozen=True, slots=True)
class Term:
    """One thing a clause asks about."""

    label: str  #: as the question writes it
    forms: tuple[Form, ...]  #: any of them is a match; the first is the term itself
    related: tuple[Form, ...]  #: words that often say the same; a match that counts for less
    weight: float  #: 1 for a topic word of the clause itself
    own: bool = True  #: False when inherited from an earlier clause

    @property
    def strong(self) -> bool:
        """Whether a match says something about the topic of the clause itself."""
        return self.own and self.weight > WEAK

    @property
    def proper(self) -> bool:
        """Whether the question writes the term as a name: `GIL`, `ZipFile`, `lru_cache`."""
        return any(not letter.islower() for letter in self.label[1:])

    def match(self, tokens: list[str]) -> float:
        """Return how well `tokens` say the term: 1, `RELATED` or 0."""
        if any(count_run(tokens, form) for form in self.forms):
            return 1.0
        return RELATED if any(count_run(tokens, form) for form in self.related) else 0.0

    def places(self, tokens: list[str]) -> list[int]:
        """Return where in `tokens` the term itself stands."""
        return [place for form in self.forms for place in places_of_run(tokens, form)]


def own_terms(clause: str) -> list[Term]:
    """Return the terms that `clause` itself names, in order."""
    chunks = [(match[1] or match[2], bool(match[1])) for match in _CHUNK.finditer(clause)]
    found: dict[Form, Term] = {}
    for at, (chunk, quoted) in enumerate(chunks):
        lower = chunk.lower()
        form = tuple(stems(chunk))
        if not form or (len(lower) == 1 and not lower.isdigit()):
            continue
        if lower in STOP_WORDS and not (quoted or (chunk.isupper() and len(chunk) > 2)):
            continue
        forms = [form]
        if len(form) == 1:
            neighbours = (chunks[at - 1 : at] if at else []) + chunks[at + 1 : at + 2]
            for other, _ in neighbours:
                after = at + 1 < len(chunks) and other is chunks[at + 1][0]
                joined = f"{lower}{other.lower()}" if after else f"{other.lower()}{lower}"
                if joined.isalpha() and len(joined) > len(lower) + 1:
                    forms.append((stem(joined),))
            if len(lower) <= MAX_ORDINARY_LETTERS and lower.isalpha():
                forms.extend(
                    (stem(lower[:cut]), stem(lower[cut:])) for cut in range(3, len(lower) - 2)
                )
        weight = WEAK if lower in WEAK_WORDS else 1.0
        others = tuple((word,) for word in related(form[0])) if len(form) == 1 else ()
        found.setdefault(form, Term(chunk, tuple(dict.fromkeys(forms)), others, weight))
    return list(found.values())[:MAX_TERMS]


def clause_terms(clause: str, earlier: Sequence[str]) -> list[Term]:
    """Return the terms of `clause`, followed by the topic it inherits from `earlier` clauses.

    A clause with a pronoun or with fewer than two topic words of its own cannot stand alone: what
    it inherits weighs much. Others inherit too, as a mild preference for the same subject.
    """
    own = own_terms(clause)
    strong = [term for term in own if term.strong]
    if strong:
        weight = ELLIPTIC if points_back(clause) or len(strong) < 2 else COMPANION
    else:
        weight = 1.0
    known = {form for term in own for form in term.forms[:1]}
    topic: dict[Form, Term] = {}
    for text in earlier:
        for term in own_terms(text):
            if term.strong and term.forms[0] not in known:
                topic.setdefault(term.forms[0], replace(term, weight=weight, own=not strong))
    return own + list(topic.values())[:MAX_INHERITED]


def settle_forms(terms: Sequence[Term], occurs: Callable[[Form], bool]) -> list[Term]:
    """Drop the alternative forms that the corpus does not use; the term itself always stays."""
    return [
        replace(term, forms=term.forms[:1] + tuple(f for f in term.forms[1:] if occurs(f)))
        for term in terms
    ]


def match_query(terms: Sequence[Term], *, every: bool = False, wide: bool = False) -> str:
    """Return the FTS5 query for sections with any (or `every`) one of `terms`.

    A `wide` query takes related words for a term as well.
    """
    alternatives = [
        " OR ".join(
            f'"{" ".join(form)}"' for form in (*term.forms, *(term.related if wide else ()))
        )
        for term in terms
    ]
    return (" AND " if every else " OR ").join(f"({query})" for query in alternatives)


def importance(term: Term, matching: int, total: int) -> float:
    """Return how much a match of `term` says, when `matching` of `total` sections have it."""
    return term.weight * min(IDF_CAP, math.log(1.0 + total / (matching + 0.5)))


def labels(terms: Sequence[Term]) -> list[str]:
    """Return the names of `terms` for readers."""
    return [term.label for term in terms]
