"""Random messages for any method, and random damage to bytes. Everything follows from a seed."""

from __future__ import annotations

import math
from random import Random
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.support.hostile import message_class

MessageT = TypeVar("MessageT", bound=Message)

_F = FieldDescriptor
_MAX_DEPTH = 6
_INTEGERS: dict[int, tuple[int, int]] = {
    _F.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    _F.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    _F.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    _F.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_NUMBERS = (0, 1, 2, 3, 7, 50, 100, 1_000, 10_001, 1 << 31, 1 << 53, 1 << 62)
_DOUBLES = (0.0, -0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf)
_TEXTS = (
    "",
    "x",
    "x" * 128,
    "x" * 129,
    "x" * 5_000,
    "a/b",
    "..",
    "\0",
    "é\N{SNOWMAN}\U0001f600",
    "not an id",
    "1.2",
    "state",
    "sha256:" + "0" * 64,
)


class Fuzzer:
    """Makes messages from one seed; names that it likes to use may be given."""

    def __init__(self, seed: int, names: dict[str, tuple[str, ...]]) -> None:
        self.random = Random(seed)
        self._names = names  #: likely values by the name of a string field

    def message(self, kind: type[MessageT], depth: int = 0) -> MessageT:
        """Return a message with some of its fields set, all of them to something sendable."""
        message = kind()
        density = self.random.choice((0.05, 0.1, 0.3, 0.8))
        oneofs: list[Any] = list(kind.DESCRIPTOR.oneofs)
        chosen = {oneof.name: self.random.choice(list(oneof.fields)).name for oneof in oneofs}
        for field in kind.DESCRIPTOR.fields:
            oneof = field.containing_oneof
            if oneof is not None and len(oneof.fields) > 1:
                if chosen[oneof.name] != field.name:
                    continue
                wanted = True
            else:
                wanted = field.name in self._names or self.random.random() < density
            if wanted:
                self._set(message, field, depth)
        return message

    def damage(self, data: bytes) -> bytes:
        """Return the bytes with a few of them changed, dropped, repeated or added."""
        out = bytearray(data)
        for _ in range(self.random.randint(1, 6)):
            at = self.random.randrange(len(out) + 1)
            kind = self.random.randrange(5)
            if kind == 0 and at < len(out):
                out[at] ^= 1 << self.random.randrange(8)
            elif kind == 1:
                del out[at : at + self.random.randint(1, 20)]
            elif kind == 2:
                out[at:at] = self.random.randbytes(self.random.randint(1, 20))
            elif kind == 3:
                out[at:at] = out[at : at + self.random.randint(1, 200)]
            elif at < len(out):
                out[at] = self.random.choice((0x00, 0x7F, 0x80, 0xFF))
        return bytes(out)

    def _set(self, message: Message, field: Any, depth: int) -> None:
        if field.message_type is not None and depth >= _MAX_DEPTH:
            return
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field, depth)
        elif field.message_type is not None:
            kind = message_class(field.message_type.full_name)
            if field.is_repeated:
                for _ in range(self.random.randrange(4)):
                    getattr(message, field.name).append(self.message(kind, depth + 1))
            else:
                getattr(message, field.name).CopyFrom(self.message(kind, depth + 1))
        elif field.is_repeated:
            values = [self._value(field) for _ in range(self.random.randrange(4))]
            getattr(message, field.name).extend(values)
        else:
            setattr(message, field.name, self._value(field))

    def _fill_map(self, entries: Any, field: Any, depth: int) -> None:
        key, value = field.message_type.fields
        for _ in range(self.random.randrange(3)):
            name = self._value(key)
            if value.message_type is not None:
                kind = message_class(value.message_type.full_name)
                entries[name].CopyFrom(self.message(kind, depth + 1))
            else:
                entries[name] = self._value(value)

    def _value(self, field: Any) -> Any:
        random = self.random
        if field.cpp_type == _F.CPPTYPE_STRING and field.type == _F.TYPE_BYTES:
            return random.randbytes(random.choice((0, 1, 30, 3_000)))
        if field.cpp_type == _F.CPPTYPE_STRING:
            likely = self._names.get(field.name, ("a text", "other"))
            return random.choice(likely if random.random() < 0.85 else _TEXTS)
        if field.cpp_type == _F.CPPTYPE_BOOL:
            return random.random() < 0.5
        if field.cpp_type in (_F.CPPTYPE_DOUBLE, _F.CPPTYPE_FLOAT):
            return random.choice((*_DOUBLES, *[1.5] * 20))
        if field.enum_type is not None:
            known = [value.number for value in field.enum_type.values]
            return random.choice([*known * 5, 99, -1])
        low, high = _INTEGERS[field.cpp_type]
        if random.random() < 0.5:
            return random.randrange(4)
        return random.choice([n for n in (*_NUMBERS, low, high) if low <= n <= high])
