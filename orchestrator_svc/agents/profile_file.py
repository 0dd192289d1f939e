"""Profiles from YAML files: read and checked when the service starts, so that no run finds out.

    name: words                   # default: the name of the file
    atomizer: scripted            # a built-in set of agents …
    planner: package.module:Name  # … or a class, or an object, that plays the role
    aggregator: package.module:Name
    modifier: package.module:Name # default: the planner, if it changes plans
    executor: package.module:Name # of task types that `executors` does not name
    executors: {SEARCH: corpus}

A class is made without arguments, once for each profile. What is named is imported by the service:
whoever writes a profile may run code there.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue, ValidationError

from orchestrator_svc.agents.profile import Profile, ProfileEntry, ProfileRegistry
from orchestrator_svc.agents.routed import ROLES, RoutedAgents
from orchestrator_svc.agents.yaml_file import InvalidYaml, read_yaml
from orchestrator_svc.graph.types import Stage

_SUFFIXES = (".yaml", ".yml")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class InvalidProfile(ValueError):
    """A file holds no profile that could be executed; the text says where and why."""


def with_files(path: Path, known: ProfileRegistry) -> ProfileRegistry:
    """Return the known profiles with those of a file, or of all YAML files of a folder.

    Raises `InvalidProfile`.
    """
    entries = {name: entry for name in known.names() if (entry := known.get(name)) is not None}
    sets = {name: entry for name, entry in entries.items() if entry.option_names is not None}
    for file in _files(path):
        profile = _read(file)
        if profile.name in entries:
            raise InvalidProfile(f"{file}: name: there is a profile {profile.name!r} already")
        try:
            entries[profile.name] = _entry(profile, sets)
        except InvalidProfile as error:
            raise InvalidProfile(f"{file}: {error}") from error
    return ProfileRegistry(entries)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if not found:
        raise InvalidProfile(f"{path}: the folder holds no {' or '.join(_SUFFIXES)} file")
    return found


def _read(file: Path) -> Profile:
    try:
        document = read_yaml(file)
    except InvalidYaml as error:
        raise InvalidProfile(str(error)) from error
    if not isinstance(document, dict):
        raise InvalidProfile(f"{file}: a profile is a mapping of keys")
    try:
        return Profile.model_validate({"name": file.stem, **document})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise InvalidProfile(f"{file}: {key}: {first['msg']}") from error


def _roles(profile: Profile) -> Iterator[tuple[str, Stage, str]]:
    """Yield each key of a profile with its stage and the agent that it names."""
    yield "atomizer", Stage.ATOMIZE, profile.atomizer
    yield "planner", Stage.PLAN, profile.planner
    yield "aggregator", Stage.AGGREGATE, profile.aggregator
    yield "executor", Stage.EXECUTE, profile.executor
    if profile.modifier:
        yield "modifier", Stage.MODIFY, profile.modifier
    for task_type, name in profile.executors.items():
        yield f"executors.{task_type}", Stage.EXECUTE, name


def _entry(profile: Profile, sets: Mapping[str, ProfileEntry]) -> ProfileEntry:
    used: dict[str, ProfileEntry] = {}
    own: dict[str, object] = {}
    for key, stage, name in _roles(profile):
        if name in sets:
            used[name] = sets[name]
            continue
        try:
            if name not in own:
                own[name] = _load(name, sets)
            _check_role(own[name], stage)
        except InvalidProfile as error:
            raise InvalidProfile(f"{key}: {error}") from error
    service_options: dict[str, JsonValue] = {}
    for entry in used.values():
        service_options.update(entry.service_options)

    def check_options(options: Mapping[str, JsonValue]) -> None:
        names = {name for entry in used.values() for name in entry.option_names or ()}
        unknown = sorted(set(options) - names)
        if unknown and not own:
            raise ValueError(f"agent option {unknown[0]!r} is not known, only {sorted(names)} are")
        for entry in used.values():
            mine = entry.option_names or ()
            entry.check_options({key: options[key] for key in mine if key in options})

    def make_agents() -> RoutedAgents:
        return RoutedAgents(profile, used, own)

    return ProfileEntry(profile, make_agents, check_options, service_options)


def _load(name: str, sets: Mapping[str, ProfileEntry]) -> object:
    """Return the agent that a reference names."""
    if not _REFERENCE.fullmatch(name):
        known = ", ".join(sorted(sets))
        raise InvalidProfile(f"{name!r} is neither one of {known} nor package.module:Name")
    module_name, _, attribute = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
        return found() if isinstance(found, type) else found
    except (Exception, SystemExit) as error:  # of any code at all
        raise InvalidProfile(f"{name}: {type(error).__name__}: {error}") from error


def _check_role(agent: object, stage: Stage) -> None:
    method = getattr(agent, str(stage), None)
    if not isinstance(agent, ROLES[stage]) or not inspect.iscoroutinefunction(method):
        what = f"{type(agent).__module__}.{type(agent).__qualname__}"
        raise InvalidProfile(f"{what} has no `async def {stage}(self, task)`")
