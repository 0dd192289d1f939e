"""Sections of Python files: docstrings and blocks of comments, found by scanning. No I/O.

A scan with one regular expression is four times as fast as `ast` and `tokenize` over the standard
library, keeps the exact lines, and works on files that the running interpreter cannot parse.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator_svc.agents.corpus.section import Kind, Section

_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | [rRuUbBfF]{0,2}(?P<string>
        \"\"\"(?:[^"\\]|\\.|"(?!""))*\"\"\"
      | '''(?:[^'\\]|\\.|'(?!''))*'''
      | "(?:[^"\\\n]|\\.)*"
      | '(?:[^'\\\n]|\\.)*'
    )
  | (?P<scope>^(?P<indent>[ \t]*)(?:async[ \t]+def|def|class)[ \t]+(?P<name>\w+))
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
#: What stands between the name of a `def` or `class` and its docstring, strings and comments apart.
_HEADER = re.compile(r"\s*(?:\[[^\]]*\]\s*)?(?:\(.*\)\s*)?(?:->[^:]*)?:\s*[rRuU]?", re.DOTALL)
_BEFORE_MODULE_DOC = re.compile(r"(?:\ufeff|[ \t]*(?:\#[^\n]*)?\n)*[rRuU]?")
_LICENCE = re.compile(r"copyright|licen[cs]ed? |all rights reserved|warranty", re.IGNORECASE)
_MARKER = re.compile(r"^(\s*)#+:?[!]?(.*)$")
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_MAX_HEADER = 4_000  #: characters from the name of a `def` to its docstring
_MIN_COMMENT_WORDS = 5


def module_name(path: str) -> str:
    """Return the dotted name of the module at `path`."""
    parts = path.removesuffix(".py").split("/")
    if len(parts) > 1 and parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def python_sections(path: str, text: str) -> Iterator[Section]:
    """Yield the docstrings and comment blocks of a Python file, in file order."""
    module = module_name(path)
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    scopes: list[tuple[int, str, Kind]] = []
    documented: set[str] = set()
    comments: list[tuple[int, int]] = []  # line index, column
    line_no = body_at = 0
    before = _BEFORE_MODULE_DOC.match(text)
    module_doc_at = before.end() if before else 0

    def line_of(offset: int) -> int:
        nonlocal line_no
        while starts[line_no + 1] <= offset:
            line_no += 1
        return line_no

    def qualified() -> str:
        return ".".join([module, *(name for _, name, _ in scopes)])

    def flush() -> Iterator[Section]:
        if not comments:
            return
        (first, column), last = comments[0], comments[-1][0]
        names = [name for indent, name, _ in scopes if indent < column]
        block = tuple(_uncomment(lines[i]) for i in range(first, last + 1))
        comments.clear()
        joined = " ".join(block)
        if len(_LETTERS.findall(joined)) >= _MIN_COMMENT_WORDS and not _LICENCE.search(joined):
            yield Section(path, ".".join([module, *names]), Kind.COMMENT, first + 1, block)

    for match in _TOKEN.finditer(text):
        at = match.start()
        if match.lastgroup == "comment" or match["comment"] is not None:
            row = line_of(at)
            column = at - starts[row]
            if lines[row][:column].strip():
                continue  # behind code
            if comments and comments[-1] != (row - 1, column):
                yield from flush()
            comments.append((row, column))
            continue
        yield from flush()
        if match["scope"] is not None:
            indent = len(match["indent"].expandtabs())
            while scopes and scopes[-1][0] >= indent:
                scopes.pop()
            is_class = match["scope"].lstrip().startswith("class")
            scopes.append((indent, match["name"], Kind.CLASS if is_class else Kind.FUNCTION))
            documented.discard(qualified())
            body_at = match.end()
            continue
        begin = match.start("string")
        if scopes and begin - body_at < _MAX_HEADER and qualified() not in documented:
            if not _HEADER.fullmatch(_TOKEN.sub("", text[body_at:begin])):
                continue
            name, kind = qualified(), scopes[-1][2]
        elif not scopes and not documented and begin == module_doc_at:
            name, kind = module, Kind.MODULE
        else:
            continue
        documented.add(name)
        row = line_of(begin)
        body = _docstring_lines(match["string"], begin - starts[row])
        if not _LICENCE.search("\n".join(body)) or len(body) > 40:
            yield Section(path, name, kind, row + 1, body)
    yield from flush()


def _docstring_lines(literal: str, column: int) -> tuple[str, ...]:
    """Return the source lines of a string literal with its quotes blanked out."""
    width = 3 if literal[:3] in ('"""', "'''") else 1
    inner = " " * (column + width) + literal[width:-width]
    if inner.lstrip().startswith("\\\n"):
        inner = inner.replace("\\\n", "\n", 1)
    return tuple(inner.split("\n"))


def _uncomment(line: str) -> str:
    match = _MARKER.match(line)
    return match[1] + match[2] if match else line
