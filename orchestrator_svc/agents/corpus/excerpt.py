"""Excerpts: neighbouring sentences that can be read on their own. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator_svc.agents.corpus.section import Kind
from orchestrator_svc.agents.corpus.sentence import Sentence

MAX_SENTENCES = 3
MAX_CHARS = 480

_LEANS_BACK = re.compile(
    r"[(\"'*]*(?:This|That|These|Those|It|Its|They|Their|Otherwise|Then|Thus|Therefore|However|Instead|So"
    r"|But|And|Or|Also|Such|Similarly|Hence|Here|Both|Alternatively|Moreover|Furthermore|Conversely"
    r"|Consequently|Nevertheless|Still|Yet|Likewise|Again|He|She|In (?:that|this|such|these) \w+"
    r"|In addition|In particular|If (?:so|not)|To \w+ (?:this|that|it|them)"
    r"|For (?:example|instance)|As a result)\b"
)
_MAY_OPEN = re.compile(r"(?:This|It|Its|Both|Here|That)\b")


@dataclass(frozen=True, slots=True)
class Span:
    """Sentences `first` to `last` (inclusive) of a section."""

    first: int
    last: int


def span_around(sentences: Sequence[Sentence], at: int, kind: Kind) -> Span | None:
    """Return the readable span around sentence `at`; None when it cannot be read alone.

    A sentence that leans on the one before ("Otherwise …") takes it along; a following sentence
    that leans on this one is taken along as well, within `MAX_SENTENCES` and `MAX_CHARS`.
    """
    first = last = at
    while _LEANS_BACK.match(sentences[first].text):
        if sentences[first].position == 0:
            docstring = kind in (Kind.FUNCTION, Kind.CLASS, Kind.MODULE)
            if docstring and _MAY_OPEN.match(sentences[first].text):
                break
            return None
        if first == 0 or not _adjacent(sentences[first - 1], sentences[first]):
            return None
        first -= 1
        if not _fits(sentences, first, last):
            return None
    while (
        last + 1 < len(sentences)
        and _adjacent(sentences[last], sentences[last + 1])
        and _LEANS_BACK.match(sentences[last + 1].text)
        and _fits(sentences, first, last + 1)
    ):
        last += 1
    return Span(first, last)


def _adjacent(one: Sentence, other: Sentence) -> bool:
    return one.paragraph == other.paragraph and one.position + 1 == other.position


def _fits(sentences: Sequence[Sentence], first: int, last: int) -> bool:
    size = sum(len(sentence.text) + 1 for sentence in sentences[first : last + 1])
    return last - first < MAX_SENTENCES and size <= MAX_CHARS
