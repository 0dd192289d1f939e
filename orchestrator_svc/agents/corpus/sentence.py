"""Sentences: prose taken out of a section with the exact lines it stands on. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator_svc.agents.corpus.section import Kind, Section

MAX_SENTENCE_CHARS = 420

_BULLET = re.compile(
    r"^(\s*)(?:[-*•+]|\(?\d{1,2}[.)]|[a-z][.)]|:\w+(?: [\w*]+)?:|@\w+(?: \w+)?:?)\s+"
)
_RULE = re.compile(r"^\s*(?:([=\-~^\"'`#*+:._|])\1{2,}|[+|].*|\.\. .*|<[^>]*>)\s*$")
_UNFINISHED = re.compile(r"[a-z,]$")  #: a line that goes on in the next one, whatever its indent
_DOCTEST = re.compile(r"^\s*(?:>>>|\.\.\.( |$)|\$ |% )")
_END = re.compile(r"[.!?][\"')\]`*]*(?=\s+[\"'(`*\[]*[A-Z0-9`*_])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|St|No|resp|approx|incl|Fig|p|pp|[A-Z])|\.\.)\.$"
)
_DEMANDING = re.compile(r"(?:XXX|TODO|FIXME|noqa|pragma|pylint|type: ignore|http://|https://)")
_SYMBOLS = re.compile(r"[=<>{}|\\/_+~^@#$%&;\[\]]")
_CODE = re.compile(
    r"\S = \S|==|\+=|->|\w\(\w*\)\.\w|;\s*$|::$|^\S+ --? |\)\s*:$|^\w+ ?\(.*\)$|\\[nrtx0u\\]"
)
_WORD = re.compile(r"[A-Za-z][a-z']+|\b[aAI]\b")
#: Sentences whose subject stands elsewhere, and ones that begin inside a quotation.
_HEADLESS = re.compile(
    r"(?:See|Is|Are|Was|Were|Has|Which|Whose)\b(?!.*\?)|'|[(*]*(?:except|or|and|not)\b"
)
#: A lower case beginning that is a name: `os.path`, `run()`, ``code``, *parameter*.
_NAME = re.compile(r"`|\*\w+\*|\w+[._(]\w*|__")
_TERMINAL = re.compile(r"[.!?][\"')\]`*]*$")
_PAIRS = (("(", ")"), ("[", "]"), ("{", "}"))


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence on one line, its place, and where in its paragraph it stands."""

    text: str  #: as in the file, runs of whitespace made one blank
    start: int  #: 1-based first line in the file
    end: int  #: last line, inclusive
    paragraph: int  #: number of the paragraph within the section, from 0
    position: int  #: number of the sentence within the paragraph, from 0


def sentences(section: Section) -> list[Sentence]:
    """Return the quotable sentences of `section` in order, without code, tables and fragments."""
    found: list[Sentence] = []
    for number, paragraph in enumerate(_paragraphs(section)):
        flat, places = _flatten(paragraph)
        for position, (start, end) in enumerate(_cut(flat)):
            text = flat[start:end]
            lead = number == 0 and position == 0 and section.kind not in _LOOSE
            if is_prose(
                text, strict=section.kind is Kind.COMMENT, summary=lead and end == len(flat)
            ):
                found.append(Sentence(text, places[start], places[end - 1], number, position))
    return found


_LOOSE = (Kind.COMMENT, Kind.HEADING, Kind.TEXT)


def is_prose(text: str, *, strict: bool = False, summary: bool = False) -> bool:
    """Return whether `text` reads as a whole sentence for humans.

    `strict` asks for a capital letter at the start, as code comments are often fragments. A
    `summary` (the first line of a docstring) may lack its full stop.
    """
    if not 12 <= len(text) <= MAX_SENTENCE_CHARS or _DEMANDING.search(text) or _CODE.search(text):
        return False
    count = len(_WORD.findall(text))
    if count < (3 if summary else 4):
        return False
    if not (_TERMINAL.search(text) or (summary and text[-1].isalnum())):
        return False
    first = text.lstrip("\"'`*([_")[:1]
    if not first.isalnum() or (strict and not first.isupper()) or _HEADLESS.match(text):
        return False
    if first.islower() and not _NAME.match(text):
        return False
    if len(_SYMBOLS.findall(text)) > max(2, len(text) // 18):
        return False
    if sum(character.isalpha() or character.isspace() for character in text) < 0.75 * len(text):
        return False
    if any(text.count(left) != text.count(right) for left, right in _PAIRS):
        return False
    return text.count('"') % 2 == 0 and text.count("``") % 2 == 0 and text.count("`") % 2 == 0


def _paragraphs(section: Section) -> Iterator[list[tuple[int, str]]]:
    """Yield runs of lines (number, stripped text) that belong together."""
    current: list[tuple[int, str]] = []
    indent = -1  # of the current paragraph
    bullet = False
    literal = -1  # indentation of the text that announced a literal block, while inside one
    doctest = False
    first_docline = section.start if section.kind not in _LOOSE else 0
    for number, line in enumerate(section.lines, section.start):
        text = line.strip()
        here = len(line.expandtabs()) - len(line.expandtabs().lstrip())
        if not text:
            doctest = False
            if current:
                yield current
                if current[-1][1].endswith("::"):
                    literal = indent
                current = []
            continue
        if literal >= 0:
            if here > literal:
                continue
            literal = -1
        if doctest or _DOCTEST.match(line) or _RULE.match(line):
            doctest = doctest or bool(_DOCTEST.match(line))
            if current:
                yield current
                current = []
            continue
        mark = _BULLET.match(line)
        hanging = here > indent and (
            bullet or _UNFINISHED.search(current[-1][1] if current else "")
        )
        second = bool(current) and current[-1][0] == first_docline
        if current and (mark or (here != indent and not hanging and not second)):
            yield current
            current = []
        if not current or second:
            indent, bullet = here, bool(mark)
        current.append((number, line[mark.end() :].strip() if mark else text))
    if current:
        yield current


def _flatten(paragraph: list[tuple[int, str]]) -> tuple[str, list[int]]:
    """Return the text of `paragraph` on one line, and for each character its line number."""
    parts: list[str] = []
    places: list[int] = []
    for number, text in paragraph:
        flat = " ".join(text.split())
        if parts and flat:
            parts.append(" ")
            places.append(places[-1])
        parts.append(flat)
        places.extend([number] * len(flat))
    return "".join(parts), places


def _cut(flat: str) -> list[tuple[int, int]]:
    """Return the (start, end) of each sentence of `flat`."""
    spans: list[tuple[int, int]] = []
    at = 0
    for match in _END.finditer(flat):
        if _ABBREVIATION.search(flat[at : match.end()]):
            continue
        spans.append((at, match.end()))
        at = match.end()
        while at < len(flat) and flat[at] == " ":
            at += 1
    if at < len(flat):
        spans.append((at, len(flat)))
    return spans
