"""Execution keys as the contract lists them: read from text, shown as text. Pure."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor

from ramify.v1.project_pb2 import ExecutionSettings, StateSettings
from ramify.v1.setting_pb2 import SettingRule, setting_rule

_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

EXECUTION: dict[str, FieldDescriptor] = dict(ExecutionSettings.DESCRIPTOR.fields_by_name)
#: How state_svc stores a run.
STORAGE: dict[str, FieldDescriptor] = dict(StateSettings.DESCRIPTOR.fields_by_name)
FIELDS = {**EXECUTION, **STORAGE}


def rule_of(field: FieldDescriptor) -> SettingRule:
    """Return default, range and meaning of a key."""
    return field.GetOptions().Extensions[setting_rule]


def choices_of(field: FieldDescriptor) -> dict[str, int]:
    """Return the values of a choice by their names in a config file; none for other keys."""
    if field.enum_type is None:
        return {}
    values = field.enum_type.values
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix).lower(): value.number for value in values[1:]}


def allowed(field: FieldDescriptor) -> str:
    """Return what a key takes, for people."""
    if field.enum_type is not None:
        return ", ".join(choices_of(field))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false"
    whole = field.cpp_type != FieldDescriptor.CPPTYPE_DOUBLE
    rule = rule_of(field)
    return f"{'a whole number' if whole else 'a number'}, {rule.min:.16g} to {rule.max:.16g}"


def parse(field: FieldDescriptor, text: str) -> bool | float | int:
    """Return the value that a text stands for. Raises ValueError if the key does not take it."""
    word = text.strip().lower()
    if field.enum_type is not None:
        return _lookup(choices_of(field), word)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _lookup(_TRUTH, word)
    whole = field.cpp_type != FieldDescriptor.CPPTYPE_DOUBLE
    number = int(word) if whole else float(word)
    rule = rule_of(field)
    if not rule.min <= number <= rule.max:
        raise ValueError(text)
    return number


def _lookup(table: dict[str, int] | dict[str, bool], word: str) -> int:
    if word not in table:
        raise ValueError(word)
    return table[word]


def shown(settings: ExecutionSettings | StateSettings, field: FieldDescriptor) -> str:
    """Return a key's value as a config file has it: the message's, else the default."""
    chosen = {known.name: value for known, value in settings.ListFields()}
    if field.name not in chosen:
        return rule_of(field).default_value
    value = chosen[field.name]
    if field.enum_type is not None:
        names = {number: name for name, number in choices_of(field).items()}
        return names.get(value, str(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
