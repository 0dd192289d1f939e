"""Every `ramify` and `make` line that a page or a help text shows is one that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from ramify.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "scripts/demo.py",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(path for path in (ROOT / "examples").rglob("*") if path.is_file()),
    *sorted((ROOT / "clients/python/ramify/cli").glob("*.py")),
]
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in FILES
    if path.suffix in (".md", ".py", ".yaml")
}
#: A line of its own, as in a block or a list of examples, or a piece of code in a sentence.
_LINE = re.compile(r"^(?:# *|\$)? *ramify ([^#|>\n]+)", re.MULTILINE)
_PIECE = re.compile(r"`ramify ((?!\{)[^`\n]+)`")
_FLAG = re.compile(r"(?<=\s)--?[a-z][\w-]*")
COMMANDS = get_command(app)


def _shown(text: str) -> Iterator[str]:
    for pattern in (_LINE, _PIECE):
        yield from pattern.findall(text)


def _problem(shown: str) -> str:
    """Return what is wrong with the words behind `ramify`; empty if nothing is."""
    command, words = COMMANDS, re.findall(r"\S+", shown)
    while words and (children := getattr(command, "commands", None)) and words[0] in children:
        command = children[words.pop(0)]
    if command is COMMANDS and words and not words[0].startswith("-"):
        return f"there is no {words[0]}"
    known = {"-h", "--help"}.union(*(p.opts + p.secondary_opts for p in command.params))
    quoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", f" {shown}")
    return " ".join(flag for flag in _FLAG.findall(quoted) if flag not in known)


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if any(_shown(text))])
def test_every_ramify_line_names_a_command_and_flags_that_there_are(page: str) -> None:
    found = {shown: _problem(shown) for shown in _shown(TEXTS[page])}
    assert {shown: problem for shown, problem in found.items() if problem} == {}


def test_what_is_not_there_would_be_seen() -> None:
    assert _problem("frobnicate ID") == "there is no frobnicate"
    assert _problem("run --plan x.yaml --reviews") == "--reviews"
    assert _problem("review approve ID --plan plan.json") == ""


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = {
        (page, name)
        for page, text in TEXTS.items()
        for name in re.findall(r"(?:^|`)make ([a-z-]+)(?=`|\s+#|$)", text, re.MULTILINE)
    }
    assert len(named) >= 5
    assert {(page, name) for page, name in named if name not in targets} == set()
