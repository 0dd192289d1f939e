"""Execution keys outside the core: read from files, environment, flags and the contract.

The one list of keys is the message `ExecutionSettings`: name and type of a key are its field's,
default, range and meaning its field's `setting_rule`. A new key is a field there, a row in
`docs/execution.md`, a test marked `execution_key`, and, if the core acts on it, a field of
`graph.settings.Settings`. state_svc reads its own keys from the project, where StartProject puts
all keys of the core and, of the others, the chosen ones.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from orchestrator_svc.graph.settings import KEYS as CORE_KEYS
from orchestrator_svc.graph.settings import Scalar, Settings, choose, effective, problems
from ramify.v1.project_pb2 import ExecutionSettings, StateSettings
from ramify.v1.setting_pb2 import setting_rule

_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class Kind(enum.StrEnum):
    """What a key holds."""

    BOOL = "true or false"
    INT = "a whole number"
    NUMBER = "a number"
    CHOICE = "a choice"


class InvalidSetting(ValueError):
    """A key or its value is not allowed; `problem` says why and what would be right."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key = key
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Key:
    """One execution key."""

    name: str
    kind: Kind
    default: Scalar | None  #: None: whatever the service that acts on it is configured for
    meaning: str
    least: float = 0.0
    most: float = 0.0
    choices: Mapping[str, int] | None = None  #: numbers in the contract by text

    @property
    def allowed(self) -> str:
        """The values that the key takes, for people."""
        if self.choices is not None:
            return ", ".join(self.choices)
        if self.kind is Kind.BOOL:
            return self.kind
        return f"{self.kind}, {self.least:.16g} to {self.most:.16g}"

    def read(self, value: object) -> Scalar:
        """Return a value of a file, a variable or a flag. Raises `InvalidSetting`."""
        found = self._parse(value)
        if found is None:
            raise InvalidSetting(self.name, f"takes {self.allowed}, not {value!r}")
        return found

    def _parse(self, value: object) -> Scalar | None:
        text = value.strip().lower() if isinstance(value, str) else value
        if self.kind is Kind.BOOL:
            return _TRUTH.get(str(text).lower())
        if self.choices is not None:
            return text if isinstance(text, str) and text in self.choices else None
        if isinstance(text, bool) or not isinstance(text, (int, float, str)):
            return None
        try:
            number = float(text)
        except (ValueError, OverflowError):
            return None
        if not self.least <= number <= self.most:  # not a number either
            return None
        if self.kind is Kind.NUMBER:
            return number
        return int(number) if number.is_integer() else None


def _key(field: FieldDescriptor) -> Key:
    rule = field.GetOptions().Extensions[setting_rule]
    kind, choices = Kind.INT, None
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        kind = Kind.BOOL
    elif field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        kind = Kind.NUMBER
    elif field.enum_type is not None:
        kind, choices = Kind.CHOICE, _choices(field.enum_type)
    key = Key(field.name, kind, None, rule.meaning, rule.min, rule.max, choices)
    return replace(key, default=key.read(rule.default_value)) if rule.default_value else key


def _choices(enum_type: EnumDescriptor) -> dict[str, int]:
    """Return the values of an enum by their short names; the first value means that none is set."""
    values = enum_type.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in values[1:]}


KEYS: dict[str, Key] = {field.name: _key(field) for field in ExecutionSettings.DESCRIPTOR.fields}

#: How state_svc stores a project. They may be chosen wherever execution keys are.
STATE_KEYS: dict[str, Key] = {field.name: _key(field) for field in StateSettings.DESCRIPTOR.fields}
ALL_KEYS = {**KEYS, **STATE_KEYS}


def read_settings(values: Mapping[str, object]) -> dict[str, Scalar]:
    """Return the given keys with their values. Raises `InvalidSetting` at the first bad one."""
    chosen = {}
    for name, value in values.items():
        key = ALL_KEYS.get(name)
        if key is None:
            raise InvalidSetting(name, f"is not an execution key; they are {', '.join(ALL_KEYS)}")
        chosen[name] = key.read(value)
    return chosen


def settle(*layers: Mapping[str, Scalar]) -> Settings:
    """Return the keys in force. Raises `InvalidSetting` for those that cannot be combined."""
    settings = effective(*layers)
    for key, problem in problems(settings):
        raise InvalidSetting(key, problem)
    return settings


def from_message(message: ExecutionSettings | StateSettings) -> dict[str, Scalar]:
    """Return the keys that a message sets. Raises `InvalidSetting`."""
    return {f.name: _value(ALL_KEYS[f.name], value) for f, value in message.ListFields()}


def read_stored(message: ExecutionSettings) -> dict[str, Scalar]:
    """Return the keys that a stored project sets, without what only a newer version can read."""
    chosen = {}
    for field, value in message.ListFields():
        with suppress(InvalidSetting):
            chosen[field.name] = _value(KEYS[field.name], value)
    return chosen


def _value(key: Key, value: object) -> Scalar:
    if key.choices is not None:
        value = next((text for text, number in key.choices.items() if number == value), value)
    return key.read(value)


def to_message(settings: Settings, *layers: Mapping[str, Scalar]) -> ExecutionSettings:
    """Return all keys of the core, and those of state_svc's watches that the layers choose."""
    message = ExecutionSettings()
    chosen = choose(*layers)
    for name, key in KEYS.items():
        value = getattr(settings, name) if name in CORE_KEYS else chosen.get(name)
        if value is not None:
            _set(message, key, value)
    return message


def to_state_message(*layers: Mapping[str, Scalar]) -> StateSettings:
    """Return the keys of storage that the layers choose.

    A preset of a later layer wins over the keys of earlier ones: it is the later choice.
    """
    message = StateSettings()
    for layer in layers:
        own = {name: value for name, value in layer.items() if name in STATE_KEYS}
        if "preset" in own:
            message.Clear()
        for name, value in own.items():
            _set(message, STATE_KEYS[name], value)
    return message


def _set(message: Message, key: Key, value: Scalar) -> None:
    setattr(message, key.name, value if key.choices is None else key.choices[str(value)])
