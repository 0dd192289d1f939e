"""Reads a plan from a YAML or JSON file; every problem names its line and its task."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value
from pydantic import ValidationError

from ramify.plan_source import Place, PlanFileError, PlanProblem, Source
from ramify.plan_spec import Inherited, PlanSpec, TaskSpec
from ramify.v1.node_pb2 import DependencyPolicy, ExhaustedPolicy
from ramify.v1.plan_pb2 import Plan, PlanOutput, PlanTask

MAX_BYTES = 4 << 20  #: of a file
# Of what the orchestrator takes; here they are found without it, with their line.
MAX_PLAN_BYTES = 1 << 20  #: encoded
MAX_LEVELS = 20  #: of tasks
MAX_DEPENDENCIES = 1_000  #: of a task

#: An escaped backslash, which is no escape of what follows, or a surrogate pair.
_PAIR = re.compile(
    r"\\\\|\\u(?P<high>d[89ab][0-9a-f]{2})\\u(?P<low>d[c-f][0-9a-f]{2})", re.IGNORECASE
)
_OUTPUTS = {"text": PlanOutput.PLAN_OUTPUT_TEXT, "json": PlanOutput.PLAN_OUTPUT_JSON}
_EXHAUSTED = {
    "fail": ExhaustedPolicy.EXHAUSTED_POLICY_FAIL,
    "pause": ExhaustedPolicy.EXHAUSTED_POLICY_PAUSE,
    "replan": ExhaustedPolicy.EXHAUSTED_POLICY_REPLAN,
    "ask": ExhaustedPolicy.EXHAUSTED_POLICY_ASK,
}
_DEPENDENCY_FAILURE = {
    "fail": DependencyPolicy.DEPENDENCY_POLICY_FAIL,
    "run": DependencyPolicy.DEPENDENCY_POLICY_RUN,
    "replan": DependencyPolicy.DEPENDENCY_POLICY_REPLAN,
    "skip": DependencyPolicy.DEPENDENCY_POLICY_SKIP,
}
_ADVICE = {
    "extra_forbidden": "is not a key here",
    "missing": "is needed",
    "string_type": "is text; put it into quotes",
}


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan with what its file says about the run."""

    plan: Plan
    spec: PlanSpec
    source: Source

    @property
    def settings(self) -> list[str]:
        """Execution keys as `key=value`."""
        return [f"{key}={_shown(value)}" for key, value in self.spec.settings.items()]

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the run."""
        return dict(self.spec.labels)


def read_plan_file(path: Path) -> PlanFile:
    """Return the plan of a file. Raises `PlanFileError` with every problem."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PlanFileError([PlanProblem(path, f"has more than {MAX_BYTES} bytes")])
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise PlanFileError([PlanProblem(path, str(reason))]) from error
    if text.lstrip().startswith("{"):
        text = _escaped_pairs_joined(text)
    source = Source(path, text)
    if twice := list(source.repeated_keys()):
        raise PlanFileError(twice)
    if not isinstance(source.document, dict):
        raise PlanFileError([PlanProblem(path, "is no mapping with `goal` and `tasks`")])
    try:
        spec = PlanSpec.model_validate(source.document)
    except ValidationError as failure:
        raise PlanFileError(list(_shape_problems(source, failure))) from failure
    if problems := [source.problem(place, said) for place, said in _problems(spec)]:
        raise PlanFileError(sorted(problems, key=lambda problem: problem.line))
    plan = _plan(spec, path.resolve().parent)
    if plan.ByteSize() > MAX_PLAN_BYTES:
        said = f"the plan has {plan.ByteSize()} bytes, at most {MAX_PLAN_BYTES}"
        raise PlanFileError([PlanProblem(path, said)])
    return PlanFile(plan, spec, source)


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


def _shape_problems(source: Source, failure: ValidationError) -> Iterator[PlanProblem]:
    for error in failure.errors():
        place: Place = error["loc"]
        said = error["msg"].removeprefix("Value error, ")
        said = _ADVICE.get(error["type"], said[:1].lower() + said[1:])
        yield source.problem(place, f"{place[-1]}: {said}" if place else said)


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
        if len(groups) == MAX_LEVELS:
            problems.append((place, f"is nested deeper than {MAX_LEVELS} levels"))
        if len(task.depends_on) > MAX_DEPENDENCIES:
            problems.append(((*place, "depends_on"), f"at most {MAX_DEPENDENCIES} ids"))
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
    if spec.on_dependency_failure is not None:
        task.on_dependency_failure = _DEPENDENCY_FAILURE[spec.on_dependency_failure]
    if spec.budget is not None:
        task.budget.wall_seconds = spec.budget.wall_seconds
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
    if spec.on_exhausted is not None:
        target.on_exhausted = _EXHAUSTED[spec.on_exhausted]


def _shown(value: bool | float | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
