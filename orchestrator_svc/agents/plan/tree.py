"""A plan as its agents read it: checked whole, with what each task inherits. Pure."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.duration_pb2 import Duration

from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.plan import (
    MAX_GOAL_CHARS,
    MAX_TASK_DEPENDENCIES,
    MIN_GOAL_CHARS,
)
from orchestrator_svc.graph.text import CONTROL, control_problem
from orchestrator_svc.graph.types import OnDependencyFailure, OnExhausted
from ramify.v1.budget_pb2 import TaskBudget
from ramify.v1.node_pb2 import DependencyPolicy, ExhaustedPolicy
from ramify.v1.plan_pb2 import Plan, PlanTask

TASK_KEY = "task"  #: detail of a node that names its task
MAX_PLAN_BYTES = 1 << 20
MAX_LEVELS = 20  #: groups within groups; `max_recursion_depth` ends there too
MAX_TIMEOUT = 86_400.0
MAX_RETRIES = 100
MAX_REPORTED_PROBLEMS = 50
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_MAX_SHOWN_CHARS = 120
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  #: RFC 9110, token
_EXHAUSTED = {
    ExhaustedPolicy.Value(f"EXHAUSTED_POLICY_{policy.upper()}"): policy for policy in OnExhausted
}
_DEPENDENCY_FAILED = {
    DependencyPolicy.Value(f"DEPENDENCY_POLICY_{policy.upper()}"): policy
    for policy in OnDependencyFailure
}
_MAX_STEPS = 10_000  #: of `max_execution_steps`


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a plan is refused."""

    path: str  #: field of the plan, for example `tasks[0].tasks[2].depends_on`
    text: str


class InvalidPlan(ValueError):
    """A plan that cannot be run; `problems` has every reason, up to a limit."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems[:MAX_REPORTED_PROBLEMS])
        shown = "; ".join(f"{p.path}: {p.text}" if p.path else p.text for p in self.problems)
        more = len(problems) - len(self.problems)
        super().__init__(shown + (f"; {more} more problems" if more > 0 else ""))


@dataclass(slots=True, eq=False, repr=False)
class Task:
    """One task with what it inherits."""

    message: PlanTask
    path: str
    index: int  #: among its siblings
    layer: int  #: of its node; tasks of the first level have 1
    parent: Task | None  #: the group around it; that of the first level stands for the plan
    working_directory: str
    env: Mapping[str, str]
    timeout: float | None  #: seconds of one attempt
    retries: int
    on_exhausted: OnExhausted | None  #: None: as the run's settings say
    on_dependency_failure: OnDependencyFailure | None = None
    budget: Budget | None = None
    depends_on: tuple[int, ...] = ()  #: indices of siblings, in the order they are named
    tasks: list[Task] = field(default_factory=list)

    @property
    def goal(self) -> str:
        """What is to be done, for people."""
        task = self.message
        if task.goal:
            return task.goal
        shown = action_text(task)
        return f"{task.id}: {shown}" if shown else f"group {task.id}"


@dataclass(frozen=True, slots=True)
class PlanTree:
    """A plan that can be run."""

    plan: Plan
    tasks: list[Task]
    by_id: Mapping[str, Task]

    @property
    def depth(self) -> int:
        """The layer of the deepest task."""
        return max(task.layer for task in self.by_id.values())

    @property
    def longest_timeout(self) -> float:
        """The longest time-out of an attempt in seconds; 0 if no task has one."""
        return max((task.timeout or 0.0 for task in self.by_id.values()), default=0.0)

    @property
    def steps(self) -> int:
        """Agent-stage dispatches that the plan can need, crashes included (SEM 23); 0: many.

        An action needs one per attempt, a group and the root two. Twice that leaves room for
        dispatches that are repeated after a crash.
        """
        needed = 2 + sum(2 if t.tasks else 1 + t.retries for t in self.by_id.values())
        return 2 * needed if 2 * needed <= _MAX_STEPS else 0


def action_text(task: PlanTask) -> str:
    """Return what a task does in a few words; empty for a group."""
    kind = task.WhichOneof("action")
    if kind == "command":
        shown = task.command.shell or shlex.join(task.command.argv)
    elif kind == "python":
        shown = task.python.function
    elif kind == "http":
        shown = f"{task.http.method or 'GET'} {shown_url(task.http.url)}"
    else:
        return ""
    shown = CONTROL.sub("\ufffd", " ".join(shown.split()))
    return shown if len(shown) <= _MAX_SHOWN_CHARS else shown[: _MAX_SHOWN_CHARS - 1] + "…"


def shown_url(url: str) -> str:
    """Return an address as it may be recorded: passwords and queries often are secrets."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "…" if parts.query else "", ""))


def read_plan(plan: Plan) -> PlanTree:
    """Return the tree of a plan. Raises `InvalidPlan` with every problem."""
    reader = _Reader()
    if plan.ByteSize() > MAX_PLAN_BYTES:
        reader.report("", f"the plan has {plan.ByteSize()} bytes, at most {MAX_PLAN_BYTES}")
        raise InvalidPlan(reader.problems)
    if not MIN_GOAL_CHARS <= len(plan.goal) <= MAX_GOAL_CHARS:
        reader.report("goal", f"has {MIN_GOAL_CHARS} to {MAX_GOAL_CHARS} characters")
    reader.check_text("goal", plan.goal)
    reader.check_text("working_directory", plan.working_directory)
    if plan.working_directory and not plan.working_directory.startswith("/"):
        reader.report("working_directory", "is an absolute path")
    top = Task(PlanTask(), "", 0, 0, None, plan.working_directory, dict(plan.env), None, 0, None)
    reader.check_env("env", plan.env)
    if plan.HasField("timeout"):
        top.timeout = reader.timeout("timeout", plan.timeout)
    if plan.HasField("retries"):
        top.retries = reader.retries("retries", plan.retries)
    top.on_exhausted = reader.exhausted("on_exhausted", plan.on_exhausted)
    if not plan.tasks:
        reader.report("tasks", "at least one task is needed")
    reader.read_tasks(top, plan.tasks)
    if not reader.problems:
        reader.link(top)
    if reader.problems:
        raise InvalidPlan(reader.problems)
    return PlanTree(plan, top.tasks, reader.by_id)


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.by_id: dict[str, Task] = {}

    def report(self, path: str, text: str) -> None:
        self.problems.append(Problem(path, text))

    def read_tasks(self, parent: Task, messages: Sequence[PlanTask]) -> None:
        for index, message in enumerate(messages):
            path = f"{parent.path}.tasks[{index}]".removeprefix(".")
            task = Task(
                message,
                path,
                index,
                parent.layer + 1,
                parent,
                _joined(parent.working_directory, message.working_directory),
                {**parent.env, **message.env} if message.env else parent.env,
                parent.timeout,
                parent.retries,
                parent.on_exhausted,
            )
            parent.tasks.append(task)
            self._check(task)
            if task.layer <= MAX_LEVELS:
                self.read_tasks(task, message.tasks)

    def _check(self, task: Task) -> None:
        message, path = task.message, task.path
        if not ID.fullmatch(message.id):
            self.report(f"{path}.id", f"{message.id!r} is not an id of 1 to 64 of A-Za-z0-9._-")
        elif message.id in self.by_id:
            self.report(f"{path}.id", f"{message.id} is used by {self.by_id[message.id].path}")
        else:
            self.by_id[message.id] = task
        if message.goal and not MIN_GOAL_CHARS <= len(message.goal) <= MAX_GOAL_CHARS:
            self.report(f"{path}.goal", f"has {MIN_GOAL_CHARS} to {MAX_GOAL_CHARS} characters")
        self.check_text(f"{path}.goal", message.goal)
        self.check_text(f"{path}.working_directory", message.working_directory)
        if task.layer > MAX_LEVELS:
            self.report(path, f"is nested deeper than {MAX_LEVELS} levels")
        if len(message.depends_on) > MAX_TASK_DEPENDENCIES:
            self.report(f"{path}.depends_on", f"at most {MAX_TASK_DEPENDENCIES} ids")
        self.check_env(f"{path}.env", message.env)
        if message.HasField("timeout"):
            task.timeout = self.timeout(f"{path}.timeout", message.timeout)
        if message.HasField("retries"):
            task.retries = self.retries(f"{path}.retries", message.retries)
        own = self.exhausted(f"{path}.on_exhausted", message.on_exhausted)
        task.on_exhausted = own or task.on_exhausted
        if message.on_dependency_failure:
            at = f"{path}.on_dependency_failure"
            task.on_dependency_failure = self._dependency_failed(at, message.on_dependency_failure)
        if message.HasField("budget"):
            task.budget = self._budget(f"{path}.budget", message.budget)
        kind = message.WhichOneof("action")
        if message.tasks and kind is not None:
            self.report(path, f"{message.id} has both tasks and an action")
        elif not message.tasks and kind is None:
            self.report(path, f"{message.id} has neither an action nor tasks")
        if message.tasks and message.HasField("timeout"):
            self.report(f"{path}.timeout", "a group has no time-out, its tasks have")
        for field_name, text in _action_problems(message):
            self.report(f"{path}.{field_name}", text)

    def check_text(self, path: str, text: str) -> None:
        if control := control_problem(text):
            self.report(path, control)

    def check_env(self, path: str, env: Mapping[str, str]) -> None:
        for name, value in env.items():
            if not name or "=" in name or "\0" in name:
                self.report(path, f"{name!r} is not the name of a variable")
            elif "\0" in value:
                self.report(path, f"the value of {name} holds a zero byte")

    def timeout(self, path: str, duration: Duration) -> float:
        seconds = duration.seconds + duration.nanos / 1e9
        if not 0 < seconds <= MAX_TIMEOUT:
            self.report(path, f"is more than 0 and at most {MAX_TIMEOUT:g} seconds")
        return seconds

    def retries(self, path: str, retries: int) -> int:
        if retries > MAX_RETRIES:
            self.report(path, f"is at most {MAX_RETRIES}")
        return retries

    def exhausted(self, path: str, policy: ExhaustedPolicy.ValueType) -> OnExhausted | None:
        if policy and policy not in _EXHAUSTED:
            self.report(path, f"{policy} is no policy that is known here")
        return _EXHAUSTED.get(policy)

    def _dependency_failed(
        self, path: str, policy: DependencyPolicy.ValueType
    ) -> OnDependencyFailure | None:
        if policy not in _DEPENDENCY_FAILED:
            self.report(path, f"{policy} is no policy that is known here")
        return _DEPENDENCY_FAILED.get(policy)

    def _budget(self, path: str, budget: TaskBudget) -> Budget | None:
        for name in ("tokens", "cost_usd", "nodes", "depth"):
            if getattr(budget, name):
                self.report(f"{path}.{name}", "is not for tasks of a plan, only wall_seconds is")
        try:
            return Budget(wall_seconds=budget.wall_seconds) or None
        except ValueError as error:
            self.report(f"{path}.wall_seconds", str(error))
            return None

    # Dependencies

    def link(self, top: Task) -> None:
        """Turn the ids of dependencies into siblings, then look for circles among them."""
        needs: defaultdict[Task, dict[int, None]] = defaultdict(dict)  # in the order of naming
        for task in self.by_id.values():
            self._lift(task, needs)
        for task, indices in needs.items():
            if len(indices) > MAX_TASK_DEPENDENCIES:
                text = f"with its tasks it needs {len(indices)} tasks, at most"
                self.report(f"{task.path}.depends_on", f"{text} {MAX_TASK_DEPENDENCIES}")
            task.depends_on = tuple(indices)
        for group in (top, *self.by_id.values()):
            self._look_for_circles(group)

    def _lift(self, task: Task, needs: Mapping[Task, dict[int, None]]) -> None:
        """Note which sibling of a task, or of a group around it, has to end first."""
        for id_ in task.message.depends_on:
            path = f"{task.path}.depends_on"
            other = self.by_id.get(id_)
            if other is None:
                self.report(path, f"there is no task {id_}")
                continue
            mine, theirs = list(_line(task)), list(_line(other))
            if task is other:
                self.report(path, f"{id_} depends on itself")
            elif other in mine:
                self.report(path, f"{id_} is the group of {task.message.id}, so it ends later")
            elif task in theirs:
                self.report(path, f"{id_} is a part of {task.message.id}, so it is done anyway")
            else:
                ours, theirs_too = _branches(mine, theirs)
                needs[ours][theirs_too.index] = None

    def _look_for_circles(self, group: Task) -> None:
        sorter: TopologicalSorter[int] = TopologicalSorter()
        for index, task in enumerate(group.tasks):
            sorter.add(index, *task.depends_on)
        try:
            sorter.prepare()
        except CycleError as error:
            found = error.args[1][:0:-1]  # each waits for the next one, the last for the first
            start = found.index(min(found))
            circle = [group.tasks[index] for index in found[start:] + found[:start]]
            shown = " → ".join(task.message.id for task in (*circle, circle[0]))
            text = f"tasks wait for each other in a circle: {shown}"
            self.report(f"{circle[0].path}.depends_on", text)


def _line(task: Task | None) -> Iterator[Task]:
    """Yield a task and the groups around it, innermost first."""
    while task is not None:
        yield task
        task = task.parent


def _branches(mine: list[Task], theirs: list[Task]) -> tuple[Task, Task]:
    """Return the two siblings that the lines meet under."""
    for ours, yours in zip(reversed(mine), reversed(theirs), strict=False):
        if ours is not yours:
            return ours, yours
    raise AssertionError("neither line is a part of the other")


def _joined(outer: str, inner: str) -> str:
    if not inner or inner.startswith("/") or not outer:
        return inner or outer
    return f"{outer.rstrip('/')}/{inner}"


def _action_problems(task: PlanTask) -> Iterator[tuple[str, str]]:
    kind = task.WhichOneof("action")
    if kind == "command":
        if bool(task.command.argv) == bool(task.command.shell):
            yield "command", "is either a list of arguments or a line for the shell"
        if any("\0" in part for part in (*task.command.argv, task.command.shell)):
            yield "command", "holds a zero byte"
    elif kind == "python":
        module, separator, name = task.python.function.partition(":")
        if not (module and separator and name) or control_problem(task.python.function):
            yield "python", f"{task.python.function!r} is not module:function"
    elif kind == "http":
        if task.http.method and task.http.method not in METHODS:
            yield "http.method", f"is one of {', '.join(METHODS)}"
        try:
            url = urlsplit(task.http.url)
            good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            good = False
        if not good or _CONTROL.search(task.http.url):
            yield "http.url", f"{task.http.url!r} is not an http: or https: address"
        for name, value in task.http.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                yield "http.headers", f"{name!r} is not the name of a header"
            elif _CONTROL.search(value.replace("\t", "")):
                yield "http.headers", f"the value of {name} holds a control character"
        if any(not 100 <= status <= 599 for status in task.http.expected_status):
            yield "http.expected_status", "is a list of 100 to 599"
