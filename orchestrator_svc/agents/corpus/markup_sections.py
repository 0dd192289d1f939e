"""Sections of Markdown, reStructuredText and plain text files. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator_svc.agents.corpus.section import Kind, Section

_ATX = re.compile(r"^ {0,3}(#{1,6})\s+(.+?)\s*#*\s*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r"^([=\-~^\"'`#*+:._])\1{2,}\s*$")
_MARKUP = re.compile(r"[`*]")


def markdown_sections(path: str, text: str) -> Iterator[Section]:
    """Yield one section per heading of a Markdown file; fenced code is blanked out."""
    lines = text.split("\n")
    heads: list[tuple[int, int, int, str]] = []  # heading line, first body line, level, title
    fence, at = "", 0
    if lines and lines[0].strip() == "---" and "---" in (line.strip() for line in lines[1:60]):
        at = next(i for i in range(1, len(lines)) if lines[i].strip() == "---") + 1
        lines[:at] = [""] * at
    while at < len(lines):
        line = lines[at]
        mark = _FENCE.match(line)
        if fence or mark:
            lines[at] = ""
            if not fence and mark:
                fence = mark[1]
            elif mark and mark[1].startswith(fence) and line.strip() == mark[1]:
                fence = ""
        elif head := _ATX.match(line):
            heads.append((at, at + 1, len(head[1]), head[2]))
        elif (
            line.strip()
            and at + 1 < len(lines)
            and re.match(r"^(=+|-{2,})\s*$", lines[at + 1])
            and not re.match(r"\s*(?:[-*+|>]|\d+[.)])\s", line)
            and (at == 0 or not lines[at - 1].strip())
        ):
            heads.append((at, at + 2, 1 if lines[at + 1][0] == "=" else 2, line.strip()))
            at += 1
        at += 1
    yield from _under_headings(path, lines, heads)


def rst_sections(path: str, text: str) -> Iterator[Section]:
    """Yield one section per underlined heading; plain text with such headings works as well."""
    lines = text.split("\n")
    levels: list[str] = []
    heads: list[tuple[int, int, int, str]] = []
    for at in range(1, len(lines)):
        title, under = lines[at - 1].strip(), lines[at]
        if not title or not _UNDERLINE.match(under) or _UNDERLINE.match(title):
            continue
        if len(under.strip()) < min(len(title), 4) or lines[at - 1][:1].isspace():
            continue
        over = at >= 2 and lines[at - 2].strip()
        if over and not _UNDERLINE.match(lines[at - 2]):
            continue
        style = under[0] + ("/" if over else "")
        if style not in levels:
            levels.append(style)
        heads.append((at - 2 if over else at - 1, at + 1, levels.index(style) + 1, title))
    yield from _under_headings(path, lines, heads)


def _under_headings(
    path: str, lines: list[str], heads: list[tuple[int, int, int, str]]
) -> Iterator[Section]:
    """Cut `lines` at `heads`; a section is named by its headings from the outside in."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    first = heads[0][0] if heads else len(lines)
    if any(line.strip() for line in lines[:first]):
        yield Section(path, stem, Kind.TEXT, 1, tuple(lines[:first]))
    trail: list[tuple[int, str]] = []
    for number, (_, body, level, title) in enumerate(heads):
        trail = [(depth, name) for depth, name in trail if depth < level]
        trail.append((level, _MARKUP.sub("", title)))
        stop = heads[number + 1][0] if number + 1 < len(heads) else len(lines)
        name = " > ".join(name for _, name in trail)
        if any(line.strip() for line in lines[body:stop]):
            yield Section(path, name, Kind.HEADING, body + 1, tuple(lines[body:stop]))
