"""Facets: the sides of a topic, and which of them a sentence serves. No I/O."""

from __future__ import annotations

import enum
import re

from orchestrator_svc.agents.corpus.section import Kind


class Facet(enum.StrEnum):
    """A side of a topic; the value is stored in plans."""

    WHAT = "what"
    HOW = "how"
    USE = "use"
    BEWARE = "beware"

    @property
    def heading(self) -> str:
        """The facet as a heading of the report."""
        return _HEADINGS[self]


_HEADINGS = {
    Facet.WHAT: "What it is",
    Facet.HOW: "How it works",
    Facet.USE: "How to use it",
    Facet.BEWARE: "What to beware of",
}

#: Per facet, expressions that show that a sentence serves it, with the strength of each.
_CUES: dict[Facet, tuple[tuple[re.Pattern[str], float], ...]] = {
    facet: tuple((re.compile(pattern, re.IGNORECASE), strength) for pattern, strength in cues)
    for facet, cues in {
        Facet.WHAT: (
            (r"\b(?:is|are) (?:an?|the|one of|used|intended|called|known)\b", 1.0),
            (
                r"\b(?:represents?|provides?|defines?|describes?|refers? to|means|consists? of)\b",
                1.0,
            ),
            (
                r"\b(?:implements?|implementation|contains?|holds?|support(?:s|ed)?|base class)\b",
                0.7,
            ),
            (r"^(?:An?|The|This (?:module|class|function|package|section|guide)) ", 0.4),
        ),
        Facet.HOW: (
            (r"\b(?:when|whenever|once|as soon as|before|after|until|while|each time)\b", 0.7),
            (
                r"\b(?:causes?|arranges?|schedules?|invokes?|triggers?|propagates?|internally)\b",
                1.0,
            ),
            (
                r"\b(?:because|so that|therefore|thus|by \w+ing|in order to|results? in)\b",
                0.9,
            ),
            (r"\b(?:then|first|next|finally|in turn|automatically|starts?|waits?|becomes?)\b", 0.5),
            (r"\bif\b.*\b(?:is|are|was|has|will)\b", 0.4),
        ),
        Facet.USE: (
            (r"\b(?:should|must|recommended|prefer(?:red|ably)?|advis(?:ed|able)|best)\b", 1.2),
            (r"\b(?:use|using|to use|can be used|is useful|usage|example|typical(?:ly)?)\b", 1.0),
            (r"\b(?:you|your|callers?|users?)\b", 0.6),
            (
                r"\b(?:pass(?:ed|ing)?|specif(?:y|ies|ied)|set|argument|parameter|option(?:al)?)\b",
                0.5,
            ),
            (
                r"^(?:Return|Create|Open|Read|Write|Set|Add|Remove|Make|Get|Call|Clear|Request)s?\b",
                0.7,
            ),
            (r"\b(?:can|allows?|lets?|enables?)\b", 0.4),
        ),
        Facet.BEWARE: (
            (r"\b(?:rais(?:es?|ed|ing)|error|exceptions?|fail(?:s|ed|ure|ing)?|crash\w*)\b", 1.0),
            (
                r"\b(?:warning|beware|careful(?:ly)?|caution|danger\w*|unsafe|deprecated|caveat)\b",
                1.4,
            ),
            (
                r"\b(?:never|must not|should not|cannot|can't|don't|won't|not (?:be|safe))\b",
                1.0,
            ),
            (r"\b(?:however|unless|otherwise|even if|only if|except|avoid|risk|problem)\b", 0.7),
            (
                r"\b(?:lost|leak\w*|deadlock\w*|race|corrupt\w*|infinite|invalid|limit(?:s|ed)?)\b",
                0.8,
            ),
            (r"\bnot\b|n't\b", 0.4),
        ),
    }.items()
}

_ASKS: tuple[tuple[re.Pattern[str], tuple[Facet, ...]], ...] = (
    (
        re.compile(
            r"\b(?:errors?|exceptions?|fail\w*|beware|avoid|pitfalls?|wrong|danger\w*|risks?|limits?"
            r"|limitations?|problems?|careful|unsafe|crash\w*)\b",
            re.IGNORECASE,
        ),
        (Facet.BEWARE, Facet.HOW, Facet.USE, Facet.WHAT),
    ),
    (
        re.compile(
            r"\bhow (?:do|can|should|would|to|must)\b.{0,12}\b(?:I|we|you|one|to)\b"
            r"|\bhow to\b|\bshould\b|\b(?:use|best)\b",
            re.IGNORECASE,
        ),
        (Facet.USE, Facet.HOW, Facet.BEWARE, Facet.WHAT),
    ),
    (
        re.compile(r"^\W*(?:how|why|when)\b", re.IGNORECASE),
        (Facet.HOW, Facet.WHAT, Facet.USE, Facet.BEWARE),
    ),
)
#: "Return the …", "Read and …": the opening of a docstring that says what a call does.
_COMMAND = re.compile(
    r"(?!If|When|In|On|At|For|With|After|Before|Once|While|Unlike|By|To|As|All|Since|Because|Only)"
    r"[A-Z][a-z]+ (?:an?|the|this|that|all|any|its|and|if|whether|up|until|from|\*\w+\*|`+\w+`+) "
)
_DEFAULT = (Facet.WHAT, Facet.HOW, Facet.USE, Facet.BEWARE)


def facet_order(clause: str) -> tuple[Facet, ...]:
    """Return the facets in the order in which they answer `clause`."""
    for pattern, order in _ASKS:
        if pattern.search(clause):
            return order
    return _DEFAULT


def facet_of(text: str, *, opens: bool, kind: Kind) -> tuple[Facet, float]:
    """Return the facet that the sentence `text` serves best, and how clearly (0 to 1).

    `opens` says that the sentence is the first of its section, where definitions stand.
    """
    strengths = {
        facet: sum(strength for pattern, strength in cues if pattern.search(text))
        for facet, cues in _CUES.items()
    }
    if opens and kind is not Kind.COMMENT:
        strengths[Facet.USE if _COMMAND.match(text) else Facet.WHAT] += 0.7
    if kind is Kind.COMMENT:
        strengths[Facet.HOW] += 0.4
    if not any(strengths.values()):
        return Facet.HOW, 0.0
    best = max(Facet, key=lambda facet: strengths[facet])  # the first one of equals
    return best, min(1.0, strengths[best] / 2.0)
