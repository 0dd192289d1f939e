"""Reads `key=value` arguments. Pure; raises `CliError` with what would be right."""

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.struct_pb2 import Value

from ramify.cli.exits import CliError, ExitCode
from ramify.setting_keys import EXECUTION, FIELDS, allowed, parse
from ramify.v1.node_pb2 import NodeState
from ramify.v1.project_pb2 import ExecutionSettings, ProjectState, StateSettings

_T = TypeVar("_T")


def split_pair(text: str, option: str) -> tuple[str, str]:
    """Return key and value of `key=value`."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise CliError(
            f"{option} {text!r} is not key=value", f"for example {option} a=b", ExitCode.USAGE
        )
    return key, value


def read_labels(pairs: Iterable[str]) -> dict[str, str]:
    """Return labels from `key=value` arguments; a later one wins."""
    return dict(split_pair(pair, "--label") for pair in pairs)


def read_settings(pairs: Iterable[str]) -> tuple[ExecutionSettings, StateSettings]:
    """Return the keys of `key=value` arguments; names, types and ranges are the contract's."""
    settings, storage = ExecutionSettings(), StateSettings()
    for pair in pairs:
        key, text = split_pair(pair, "--set")
        if key not in FIELDS:
            raise CliError(
                f"--set does not know {key!r}", f"it knows {', '.join(FIELDS)}", ExitCode.USAGE
            )
        try:
            target = settings if key in EXECUTION else storage
            setattr(target, key, parse(FIELDS[key], text))
        except ValueError:
            raise CliError(
                f"--set {key} takes {allowed(FIELDS[key])}, not {text!r}", "", ExitCode.USAGE
            ) from None
    return settings, storage


def chosen_keys(pairs: Iterable[str]) -> dict[str, str]:
    """Return checked execution keys by name, as text; a later one wins."""
    given = [split_pair(pair, "--set") for pair in pairs]
    read_settings(f"{key}={text}" for key, text in given)
    return dict(given)


def read_options(pairs: Iterable[str]) -> dict[str, Value]:
    """Return agent options from `key=value` arguments: JSON where it is JSON, else text."""
    options: dict[str, Value] = {}
    for pair in pairs:
        key, text = split_pair(pair, "--option")
        try:
            options[key] = Parse(text, Value())
        except ParseError:
            options[key] = Value(string_value=text)
    return options


def read_node_states(names: Iterable[str]) -> list[NodeState.ValueType]:
    """Return node states by their names, with or without prefix, in any case."""
    known = {key.removeprefix("NODE_STATE_"): value for key, value in NodeState.items() if value}
    return [_choose(known, name, "NODE_STATE_") for name in names]


def read_project_states(names: Iterable[str]) -> list[ProjectState.ValueType]:
    """Return project states by their names, with or without prefix, in any case."""
    known = {
        key.removeprefix("PROJECT_STATE_"): value for key, value in ProjectState.items() if value
    }
    return [_choose(known, name, "PROJECT_STATE_") for name in names]


def _choose(known: dict[str, _T], name: str, prefix: str) -> _T:
    try:
        return known[name.upper().removeprefix(prefix)]
    except KeyError:
        raise CliError(
            f"{name!r} is not a state", f"states are {', '.join(known)}", ExitCode.USAGE
        ) from None
