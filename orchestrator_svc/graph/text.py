"""Text as the store takes it: UTF-8 of bounded length, without what no reader shows."""

from __future__ import annotations

import re

#: Of ASCII and Latin 1, but for the tab and what ends a line.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def is_text(text: str) -> bool:
    """Return whether `text` can be stored, that is encoded as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def control_problem(text: str) -> str:
    """Return what is wrong with a text that holds a control character; empty if it holds none.

    A tab and the end of a line are none.
    """
    found = None if text.isprintable() else CONTROL.search(text)
    return f"holds the control character U+{ord(found.group()):04X}" if found else ""


def storable(text: str, max_chars: int) -> str:
    """Return `text` cut to `max_chars`, with what cannot be encoded replaced."""
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return text if is_text(text) else text.encode(errors="replace").decode()
