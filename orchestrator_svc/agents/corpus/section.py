"""A section: the piece of a document that is indexed and retrieved as one. No I/O."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.StrEnum):
    """Where the text of a section stands."""

    MODULE = "module"
    CLASS = "class"
    FUNCTION = "function"
    COMMENT = "comment"
    HEADING = "heading"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Section:
    """Consecutive lines of one file, as they stand in it apart from comment markers.

    `lines[i]` is the text of line `start + i` of the file. Docstring quotes and comment markers are
    blanked out, indentation is kept.
    """

    path: str  #: relative to the corpus root, with forward slashes
    name: str  #: dotted name or headings from the outside in
    kind: Kind
    start: int  #: 1-based line of the first text line
    lines: tuple[str, ...]

    @property
    def end(self) -> int:
        """Last line, inclusive."""
        return self.start + len(self.lines) - 1

    @property
    def text(self) -> str:
        """The lines joined."""
        return "\n".join(self.lines)


MAX_SECTION_LINES = 80  #: a longer section is cut at a blank line


def pieces(section: Section) -> list[Section]:
    """Return `section` cut to at most `MAX_SECTION_LINES` lines each, blank ends trimmed."""
    cut: list[Section] = []
    at, lines = 0, section.lines
    while at < len(lines):
        stop = min(at + MAX_SECTION_LINES, len(lines))
        if stop < len(lines):
            blanks = [i for i in range(at + MAX_SECTION_LINES // 2, stop) if not lines[i].strip()]
            stop = blanks[-1] if blanks else stop
        first, last = at, stop
        while first < last and not lines[first].strip():
            first += 1
        while last > first and not lines[last - 1].strip():
            last -= 1
        if first < last:
            cut.append(
                Section(
                    path=section.path,
                    name=section.name,
                    kind=section.kind,
                    start=section.start + first,
                    lines=lines[first:last],
                )
            )
        at = stop
    return cut
