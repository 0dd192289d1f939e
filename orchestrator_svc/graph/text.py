"""Text as the store takes it: UTF-8 of bounded length."""

from __future__ import annotations


def is_text(text: str) -> bool:
    """Return whether `text` can be stored, that is encoded as UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(text: str, max_chars: int) -> str:
    """Return `text` cut to `max_chars`, with what cannot be encoded replaced."""
    if len(text) > max_chars:
        text = text[: max_chars - 1] + "…"
    return text if is_text(text) else text.encode(errors="replace").decode()
