"""The two streams of the command: results on stdout, everything else on stderr."""

import sys
from functools import cache

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.console import Console

_FILE_WIDTH = 160  #: columns where no terminal sets a limit

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
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


@cache
def err() -> Console:
    """Return the console for progress, hints and errors."""
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _FILE_WIDTH)


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
