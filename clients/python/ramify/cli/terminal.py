"""The two streams of the command: results on stdout, everything else on stderr."""

import os
import sys
from collections.abc import Iterable
from functools import cache

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console, RenderableType

from ramify.cli.format import fold

FILE_WIDTH = 100_000  #: columns where neither a terminal nor `COLUMNS` sets a limit

#: Calmer than rich's own: a report is for reading, colour marks places in code only.
_MARKDOWN_STYLES = {
    "markdown.h1": "bold",
    "markdown.h2": "bold cyan",
    "markdown.h3": "bold",
    "markdown.block_quote": "none",
    "markdown.code": "cyan",
    "markdown.code_block": "cyan",
}


@cache
def out() -> Console:
    """Return the console for results."""
    return Console(highlight=False, width=_width(sys.stdout.isatty()))


@cache
def err() -> Console:
    """Return the console for progress, hints and errors."""
    return Console(stderr=True, highlight=False, width=_width(sys.stderr.isatty()))


def _width(terminal: bool) -> int | None:
    """Return the columns to use; None: those of the terminal, or of `COLUMNS`."""
    return None if terminal or os.environ.get("COLUMNS", "").isdecimal() else FILE_WIDTH


def print_table(table: RenderableType) -> None:
    """Print a table: in a terminal within its width, else whole, without blanks at the end."""
    if sys.stdout.isatty():  # `FORCE_COLOR` makes no terminal
        out().print(table)
        return
    with out().capture() as drawn:
        out().print(table)
    print_raw("".join(line.rstrip() + "\n" for line in drawn.get().splitlines()))


def print_lines(lines: Iterable[str], hang: int = 0) -> None:
    """Print lines on stdout; a terminal breaks them between words."""
    if sys.stdout.isatty():
        lines = (part for line in lines for part in fold(line, out().width, hang))
    print_raw("".join(line + "\n" for line in lines))


def print_json(message: Message) -> None:
    """Print one message as one line of protobuf JSON."""
    print_raw(MessageToJson(message, indent=None, ensure_ascii=False) + "\n")


def print_raw(text: str) -> None:
    """Print text as it is, in UTF-8 whatever the locale."""
    print_bytes(text.encode())


def print_bytes(body: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def print_markdown(text: str) -> None:
    """Print a report: rendered for a terminal, its exact text for anything else."""
    if sys.stdout.isatty():
        from rich.markdown import Markdown
        from rich.theme import Theme

        with out().use_theme(Theme(_MARKDOWN_STYLES)):
            out().print(Markdown(text))
    else:
        print_raw(text if text.endswith("\n") else text + "\n")


def note(text: str) -> None:
    """Print a line for the user beside the result; a long one is not broken."""
    err().print(text, markup=False, soft_wrap=True)


def note_lines(lines: Iterable[str]) -> None:
    """Print lines for the user beside the result; a terminal breaks them between words."""
    width = err().width if sys.stderr.isatty() else FILE_WIDTH
    for line in lines:
        note("\n".join(fold(line, width)))
