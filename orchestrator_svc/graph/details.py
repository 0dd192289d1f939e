"""What a planner may attach to a task: JSON that the store takes and gives back as it was.

The store keeps it as `google.protobuf.Value`, which has one kind of number, 64-bit floating point,
and takes more bytes than the same JSON as text.
"""

from __future__ import annotations

import math

from orchestrator_svc.graph.node import Json
from orchestrator_svc.graph.text import is_text

MAX_DETAILS_BYTES = 10_000  #: of one child, as stored; the node has other attributes beside them
MAX_DETAILS_KEYS = 64  #: of the details themselves, not of what is in them
MAX_DETAILS_LEVELS = 16  #: lists and objects within each other, the details included

_NUMBER_BYTES = 9
_SHORT_BYTES = 2  #: of null, true and false


class NotStorable(ValueError):
    """A value cannot be stored; the text says why, to follow the name of the value."""


def details_bytes(details: object) -> int:
    """Return the size of a task's details as they are stored. Raises `NotStorable`."""
    if not isinstance(details, dict):
        raise NotStorable("are not JSON: they are no object")
    if not details:
        return 0
    if len(details) > MAX_DETAILS_KEYS:
        raise NotStorable(f"have {len(details)} keys, at most {MAX_DETAILS_KEYS} are allowed")
    size = _value_bytes(details, 0)
    if size > MAX_DETAILS_BYTES:
        raise NotStorable(f"have {size} bytes, at most {MAX_DETAILS_BYTES} are allowed")
    return size


def _value_bytes(value: object, level: int) -> int:
    """Return the size of a `Value` inside `level` others."""
    if value is None or isinstance(value, bool):
        return _SHORT_BYTES
    if isinstance(value, str):
        return _field_bytes(_text_bytes(value))
    if isinstance(value, int | float):
        _check_number(value)
        return _NUMBER_BYTES
    if not isinstance(value, list | dict):
        raise NotStorable(f"are not JSON: they have a {type(value).__name__}")
    if value and level == MAX_DETAILS_LEVELS:
        raise NotStorable(f"are nested more than {MAX_DETAILS_LEVELS} levels deep")
    if isinstance(value, list):
        return _field_bytes(sum(_field_bytes(_value_bytes(item, level + 1)) for item in value))
    size = 0
    for key, item in value.items():
        if not isinstance(key, str):
            raise NotStorable(f"are not JSON: they have a {type(key).__name__} as a key")
        entry = _field_bytes(_text_bytes(key)) + _field_bytes(_value_bytes(item, level + 1))
        size += _field_bytes(entry)
    return _field_bytes(size)


def _field_bytes(size: int) -> int:
    """Return the size of a field of `size` bytes with its tag and its length."""
    return 1 + max(1, (size.bit_length() + 6) // 7) + size


def _text_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    if not is_text(text):
        raise NotStorable("have text that is not valid Unicode")
    return len(text.encode())


def _check_number(number: float) -> None:
    """Raise `NotStorable` for what 64-bit floating point does not hold exactly, or not finitely."""
    try:
        if math.isfinite(number) and float(number) == number:
            return
        shown = str(number)
    except OverflowError:  # a whole number, maybe of more digits than anybody reads
        shown = "a whole number of more than 308 digits"
    raise NotStorable(f"have a number that cannot be stored exactly: {shown}")


def canonical(value: Json) -> Json:
    """Return JSON as the store gives it back, so that a crash does not change what agents see.

    The store has one kind of number: a whole one is read as an int, whatever it was before.
    """
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value
