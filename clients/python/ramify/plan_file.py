"""Reads a plan from a YAML or JSON file; every problem names its line and its task."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import yaml
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from pydantic import ValidationError

from ramify.plan_spec import Inherited, PlanSpec, TaskSpec
from ramify.v1.plan_pb2 import Plan, PlanOutput, PlanTask

MAX_BYTES = 4 << 20
MAX_DEPTH = 100  #: of what is nested in a file; groups have a lower limit of their own
MAX_VALUES = 1_000_000
MAX_REPORTED_PROBLEMS = 20

Place = tuple[str | int, ...]  #: keys and indices from the top of the file

#: An escaped backslash, which is no escape of what follows, or a surrogate pair.
_PAIR = re.compile(
    r"\\\\|\\u(?P<high>d[89ab][0-9a-f]{2})\\u(?P<low>d[c-f][0-9a-f]{2})", re.IGNORECASE
)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_OUTPUTS = {"text": PlanOutput.PLAN_OUTPUT_TEXT, "json": PlanOutput.PLAN_OUTPUT_JSON}
_ADVICE = {
    "extra_forbidden": "is not a key here",
    "missing": "is needed",
    "string_type": "is text; put it into quotes",
}


class PlanFileError(ValueError):
    """A plan file cannot be used; one line per problem, each with file and line."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = tuple(lines[:MAX_REPORTED_PROBLEMS])
        more = len(lines) - len(self.lines)
        super().__init__("\n".join(self.lines) + (f"\n{more} more problems" if more else ""))


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan with what its file says about the run."""

    plan: Plan
    spec: PlanSpec
    source: "Source"

    @property
    def settings(self) -> list[str]:
        """Execution keys as `key=value`."""
        return [f"{key}={_shown(value)}" for key, value in self.spec.settings.items()]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the run."""
        return dict(self.spec.labels)


class Source:
    """A file with the lines of its parts."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        try:
            self._measure(text)
            self._root = yaml.compose(text, Loader=_LOADER)
            self.document: object = yaml.load(text, Loader=_LOADER)
        except PlanFileError:
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f":{mark.line + 1}" if mark is not None else ""
            raise PlanFileError([f"{path}{line}: {error.problem or error.context}"]) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PlanFileError([f"{path}: {' '.join(str(error).split())}"]) from error

    def _measure(self, text: str) -> None:
        """Refuse what is nested too deep, or too large once every alias stands for its anchor.

        Of events alone: whatever builds a tree recurses, or never ends.
        """
        sizes: dict[str, int] = {}  #: by anchor
        open_nodes: list[tuple[str | None, int]] = []  #: anchors, and the sizes where they began
        size = 0
        for event in yaml.parse(text, Loader=_LOADER):
            problem = ""
            if isinstance(event, yaml.AliasEvent):
                name = str(event.anchor)
                if name in (anchor for anchor, _ in open_nodes):
                    problem = f"*{name} is a part of what it stands for"
                size += sizes.get(name, 1)
            elif isinstance(event, yaml.NodeEvent):
                size += 1
                if not isinstance(event, yaml.ScalarEvent):
                    open_nodes.append((event.anchor, size - 1))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, begin = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = size - begin
            if len(open_nodes) > MAX_DEPTH:
                problem = f"is nested deeper than {MAX_DEPTH} levels"
            if size > MAX_VALUES:
                problem = f"has more than {MAX_VALUES} values, with those that aliases repeat"
            if problem:
                mark = event.start_mark
                line = f":{mark.line + 1}" if mark is not None else ""
                raise PlanFileError([f"{self.path}{line}: {problem}"])

    def line(self, place: Place) -> int:
        """Return the line, from 1, of the deepest part of a place that the file has."""
        node = self._root
        found = node.start_mark.line if node is not None else 0
        for step in place:
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if pair[0].value == str(step)]
                if not pairs:
                    break
                found, node = pairs[-1][0].start_mark.line, pairs[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                if step >= len(node.value):
                    break
                node = node.value[step]
                found = node.start_mark.line
            else:
                break
        return found + 1

    def repeated_keys(self) -> Iterator[tuple[int, str]]:
        """Yield line and name of every key that a mapping has twice; YAML takes the last one."""
        stack = [self._root] if self._root is not None else []
        while stack:
            node = stack.pop()
            if isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for key, value in node.value:
                    if key.value in seen:
                        yield key.start_mark.line + 1, key.value
                    seen.add(key.value)
                    stack.append(value)
            elif isinstance(node, yaml.SequenceNode):
                stack += node.value

    def message(self, place: Place, text: str) -> str:
        """Return a problem with its file, line and task."""
        return f"{self.path}:{self.line(place)}: {self._task(place)}{text}"

    def _task(self, place: Place) -> str:
        at: object = self.document
        name = ""
        for step in place:
            if isinstance(at, dict) and step in at:
                at = at[step]
            elif isinstance(at, list) and isinstance(step, int) and step < len(at):
                at = at[step]
                if isinstance(at, dict) and isinstance(at.get("id"), str):
                    name = f"task {at['id']}: "
            else:
                break
        return name


def read_plan_file(path: Path) -> PlanFile:
    """Return the plan of a file. Raises `PlanFileError` with every problem."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PlanFileError([f"{path}: has more than {MAX_BYTES} bytes"])
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise PlanFileError([f"{path}: {reason}"]) from error
    if text.lstrip().startswith("{"):
        text = _escaped_pairs_joined(text)
    source = Source(path, text)
    twice = [f"{path}:{line}: {key!r} is there twice" for line, key in source.repeated_keys()]
    if twice:
        raise PlanFileError(twice)
    if not isinstance(source.document, dict):
        raise PlanFileError([f"{path}: is no mapping with `goal` and `tasks`"])
    try:
        spec = PlanSpec.model_validate(source.document)
    except ValidationError as failure:
        raise PlanFileError(list(_shape_problems(source, failure))) from failure
    problems = [source.message(place, said) for place, said in _problems(spec)]
    if problems:
        raise PlanFileError(problems)
    return PlanFile(_plan(spec, path.resolve().parent), spec, source)


def _escaped_pairs_joined(text: str) -> str:
    r"""Return a text with the characters that JSON writes as two escapes, such as "\ud83d\ude00".

    YAML is a superset of JSON but for these. Not for YAML, in whose literals they may be meant as
    they stand.
    """

    def character(match: re.Match[str]) -> str:
        high, low = match["high"], match["low"]
        if high is None:
            return match[0]
        return chr(0x10000 + ((int(high, 16) - 0xD800) << 10) + int(low, 16) - 0xDC00)

    return _PAIR.sub(character, text)


def _shape_problems(source: Source, failure: ValidationError) -> Iterator[str]:
    for error in failure.errors():
        place: Place = error["loc"]
        said = error["msg"].removeprefix("Value error, ")
        said = _ADVICE.get(error["type"], said[:1].lower() + said[1:])
        yield source.message(place, f"{place[-1]}: {said}" if place else said)


# What the words mean together


def _walk(spec: PlanSpec) -> Iterator[tuple[TaskSpec, Place, tuple[str, ...]]]:
    """Yield every task with its place and the ids of the groups around it, outermost first."""
    stack: list[tuple[TaskSpec, Place, tuple[str, ...]]] = []

    def push(tasks: list[TaskSpec], place: Place, groups: tuple[str, ...]) -> None:
        entries = [(task, (*place, "tasks", index), groups) for index, task in enumerate(tasks)]
        stack.extend(reversed(entries))

    push(spec.tasks, (), ())
    while stack:
        task, place, groups = stack.pop()
        yield task, place, groups
        push(task.tasks, place, (*groups, task.id))


def _problems(spec: PlanSpec) -> list[tuple[Place, str]]:
    problems: list[tuple[Place, str]] = []
    lines: dict[str, tuple[str, ...]] = {}  #: by id: the groups around a task, and itself
    for task, place, groups in _walk(spec):
        if task.id in lines:
            problems.append(((*place, "id"), f"the id {task.id} is used twice"))
        lines[task.id] = (*groups, task.id)
        problems += ((place, text) for text in _action_problems(task))
    waits: dict[str, set[str]] = {}  #: between siblings only, as the run will have them
    for task, place, groups in _walk(spec):
        mine = (*groups, task.id)
        for index, id_ in enumerate(task.depends_on):
            at = (*place, "depends_on", index)
            theirs = lines.get(id_)
            if theirs is None:
                problems.append((at, f"depends_on: there is no task {id_}"))
            elif id_ == task.id:
                problems.append((at, f"depends_on: {id_} depends on itself"))
            elif theirs == mine[: len(theirs)]:
                problems.append((at, f"depends_on: {id_} is its group, so it ends later"))
            elif mine == theirs[: len(mine)]:
                problems.append((at, f"depends_on: {id_} is a part of it, so it is done anyway"))
            else:
                ours, other = next((a, b) for a, b in zip(mine, theirs, strict=False) if a != b)
                waits.setdefault(ours, set()).add(other)
    if not problems:
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            found = error.args[1][:0:-1]  # each waits for the next one, the last for the first
            first, place = next((t.id, p) for t, p, _ in _walk(spec) if t.id in found)
            start = found.index(first)
            circle = " → ".join((*found[start:], *found[:start], first))
            problems.append((place, f"tasks wait for each other in a circle: {circle}"))
    return problems


def _action_problems(task: TaskSpec) -> Iterator[str]:
    kinds = task.kinds
    if len(kinds) != 1:
        found = " and ".join(kinds) or "none of them"
        yield f"has one of command, python, http and tasks, not {found}"
    elif kinds != ["python"] and (task.args or task.kwargs):
        yield "args and kwargs are for python"
    elif kinds[0] in ("python", "tasks") and task.output != "text":
        yield "output is for command and http"
    elif kinds[0] in ("http", "tasks") and task.pass_dependencies:
        yield "pass_dependencies is for command and python"
    elif kinds == ["tasks"] and task.timeout_seconds is not None:
        yield "a group has no timeout_seconds, its tasks have"


# The contract's words


def _plan(spec: PlanSpec, folder: Path) -> Plan:
    plan = Plan(goal=spec.goal, tasks=[_task(task) for task in spec.tasks])
    _set_inherited(plan, spec)
    plan.working_directory = str(folder / os.path.expanduser(spec.working_directory))
    return plan


def _task(spec: TaskSpec) -> PlanTask:
    task = PlanTask(
        id=spec.id,
        goal=spec.goal or "",
        depends_on=spec.depends_on,
        tasks=[_task(inner) for inner in spec.tasks],
        working_directory=os.path.expanduser(spec.working_directory),
        pass_dependencies=spec.pass_dependencies,
    )
    _set_inherited(task, spec)
    if spec.command is not None:
        if isinstance(spec.command, str):
            task.command.shell = spec.command
        else:
            task.command.argv.extend(spec.command)
        task.command.output = _OUTPUTS[spec.output]
    elif spec.python is not None:
        task.python.function = spec.python
        task.python.args.extend(_values(spec.args))
        for name, value in zip(spec.kwargs, _values(spec.kwargs.values()), strict=True):
            task.python.kwargs[name].CopyFrom(value)
    elif spec.http is not None:
        http = spec.http
        task.http.method, task.http.url, task.http.body = http.method, http.url, http.body
        task.http.headers.update(http.headers)
        task.http.expected_status.extend(http.expected_status)
        task.http.output = _OUTPUTS[spec.output]
    return task


def _values(values: object) -> list[Value]:
    assert not isinstance(values, Mapping)
    return [ParseDict(value, Value()) for value in values]  # type: ignore[attr-defined]


def _set_inherited(target: Plan | PlanTask, spec: Inherited) -> None:
    target.env.update(spec.env)
    if spec.timeout_seconds is not None:
        target.timeout.FromNanoseconds(round(spec.timeout_seconds * 1e9))
    if spec.retries is not None:
        target.retries = spec.retries


def _shown(value: bool | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
