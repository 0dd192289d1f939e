"""Requests that are far too long, one for every field of every method of a service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import symbol_database
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

_MAX_DEPTH = 4
_STRING, _BYTES, _MESSAGE = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
)


def message_class(name: str) -> type[Message]:
    """Return the generated class of a message by its full name."""
    found: type[Message] = symbol_database.Default().GetSymbol(name)
    return found


def request_class(method: MethodDescriptor) -> type[Message]:
    """Return the class of a method's request."""
    return message_class(method.input_type.full_name)


def set_plain(message: Message, plain: dict[str, str]) -> None:
    """Fill the strings of a request that have one of these names."""
    for field in message.DESCRIPTOR.fields:
        if field.name in plain and field.type == _STRING and not _is_repeated(field):
            setattr(message, field.name, plain[field.name])


def long_requests(
    method: MethodDescriptor, text: str, plain: dict[str, str]
) -> Iterator[tuple[str, Message]]:
    """Yield (path, request) with one string, list or map of the request too long.

    Other strings are as `plain` has them, so that the request gets as far as it can.
    """
    kind = request_class(method)
    for path in _paths(kind.DESCRIPTOR, 0):
        request = kind()
        set_plain(request, plain)
        _fill(request, path, text, plain)
        yield ".".join(field.name for field in path), request


def _paths(descriptor: Any, depth: int) -> Iterator[list[FieldDescriptor]]:
    for field in descriptor.fields:
        if field.type in (_STRING, _BYTES) or _is_map(field):
            yield [field]
        elif field.type == _MESSAGE and depth < _MAX_DEPTH:
            for rest in _paths(field.message_type, depth + 1):
                yield [field, *rest]


def _fill(message: Message, path: list[FieldDescriptor], text: str, plain: dict[str, str]) -> None:
    field, *rest = path
    if _is_map(field):
        _fill_map(message, field, text)
    elif field.type == _MESSAGE:
        inner = getattr(message, field.name)
        if _is_repeated(field):
            inner = inner.add()
        else:
            inner.SetInParent()
        set_plain(inner, plain)
        _fill(inner, rest, text, plain)
    else:
        value: Any = text if field.type == _STRING else text.encode()
        if _is_repeated(field):
            getattr(message, field.name).extend([value, value + value[:1]])
        else:
            setattr(message, field.name, value)


def _fill_map(message: Message, field: FieldDescriptor, text: str) -> None:
    entries = getattr(message, field.name)
    assert field.message_type is not None
    key, value = field.message_type.fields
    if key.type != _STRING:
        return
    if value.type == _MESSAGE:
        entries[text].SetInParent()
    elif value.type == _STRING:
        entries[text] = text


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)
