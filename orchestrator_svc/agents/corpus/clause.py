"""Clauses: how a question is split into the questions it is made of. No I/O."""

from __future__ import annotations

import re

from orchestrator_svc.agents.corpus.words import PRONOUNS, STOP_WORDS, WEAK_WORDS, words

MAX_CLAUSES = 6  #: a question of more parts keeps the rest in its last clause

_SENTENCE_END = re.compile(r"(?<=[?!;])\s+|(?<=[a-z)]\.)\s+(?=[A-Z])")
_ASKING = r"(?:how|what|why)\b"
_OPENING = (
    r"(?:how|what|why|when|where|which|who|whom|whose|explain|describe|compare|list|show|discuss"
    r"|(?:is|are|was|were|does|do|did|can|could|should|would|will|must|has|have)\s+"
    r"(?:it|they|there|this|that|these|those|i|we|you|one|a|an|the))\b"
)
_JOINT = re.compile(
    rf"\s*[,;:]\s*(?:(?:and|but|or|so|then|also|plus)\s+)+(?={_OPENING})"
    rf"|\s*[,;]\s*(?={_ASKING})"
    rf"|\s+(?:and|but|or)\s+(?:then\s+|also\s+)?(?={_OPENING})",
    re.IGNORECASE,
)
_EDGE = " \t\r\n,;:.!?"


def split_clauses(question: str) -> list[str]:
    """Return the clauses of `question` in order; at least one unless it is blank.

    A piece without a content word of its own ("how", in "how and when does it run") is joined to
    the next one, so every clause but a hopeless last one can be searched for.
    """
    flat = " ".join(question.split())
    pieces: list[tuple[str, str]] = []  # the joint before the piece, the piece
    for sentence in _SENTENCE_END.split(flat):
        before, at = " ", 0
        for joint in _JOINT.finditer(sentence):
            pieces.append((before, sentence[at : joint.start()]))
            before, at = joint.group(), joint.end()
        pieces.append((before, sentence[at:]))
    clauses: list[str] = []
    open_head = ""
    for before, piece in pieces:
        text = f"{open_head}{before}{piece}" if open_head else piece
        open_head = ""
        if not text.strip(_EDGE):
            continue
        if not _has_content(text):
            open_head = text
        elif len(clauses) == MAX_CLAUSES:
            clauses[-1] = f"{clauses[-1]}{before}{text}"
        else:
            clauses.append(text)
    if open_head:
        if clauses and not points_back(open_head):
            clauses[-1] = f"{clauses[-1]} {open_head.strip()}"
        else:
            clauses.append(open_head)
    return [" ".join(clause.split()).strip(_EDGE) for clause in clauses]


def points_back(clause: str) -> bool:
    """Return whether a pronoun of `clause` stands for the topic of an earlier clause."""
    return any(word.lower() in PRONOUNS for word in words(clause))


def as_heading(clause: str) -> str:
    """Return `clause` as a heading: first letter capital, a question mark if it asks."""
    clause = clause.strip(_EDGE)
    text = clause[:1].upper() + clause[1:]
    asks = re.match(
        r"(?:how|what|why|when|where|which|who|whom|whose|is|are|does|do|can|should|will)\b",
        clause,
        re.IGNORECASE,
    )
    return f"{text}?" if asks else text


def _has_content(text: str) -> bool:
    asked = [word.lower() for word in words(text)]
    strong = [word for word in asked if word not in STOP_WORDS and word not in WEAK_WORDS]
    weak = [word for word in asked if word in WEAK_WORDS]
    return bool(strong) or bool(weak) or (points_back(text) and len(asked) > 2)
