"""Plans that cannot be run, as files and as the contract has them: both sides refuse them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf.json_format import ParseDict

from ramify.v1.plan_pb2 import Plan


@dataclass(frozen=True, slots=True)
class BadPlan:
    """A plan with one problem."""

    name: str
    text: str  #: of the file; `command`, `python` and `http` are those of the contract too
    line: int  #: that the client names
    path: str  #: that the orchestrator names
    said: str  #: by both, a part of the message


def _deep(levels: int) -> str:
    """Return groups within groups, one to a line, around a task on the last of the levels."""
    lines = ["goal: a goal", "tasks:"]
    for level in range(levels - 1):
        lines += [f"{'  ' * level}- id: g{level}", f"{'  ' * level}  tasks:"]
    return "\n".join([*lines, f"{'  ' * (levels - 1)}- {{id: a, command: {{shell: l}}}}"]) + "\n"


def _depending(count: int) -> str:
    """Return so many tasks, and one more that depends on all of them."""
    ids = [f"t{number}" for number in range(count)]
    tasks = "".join(f"- {{id: {id_}, command: {{shell: l}}}}\n" for id_ in ids)
    all_ids = ", ".join(ids)
    last = f"- id: last\n  depends_on: [{all_ids}]\n  command: {{shell: l}}\n"
    return "goal: a goal\ntasks:\n" + tasks + last


#: The most that may be nested, and may be depended on.
LARGEST_PLANS = [_deep(20), _depending(1_000)]
BAD_PLANS = [
    BadPlan(
        "a control character in the goal",
        'goal: "a\\0 goal"\ntasks:\n- {id: a, command: {shell: ls}}\n',
        1,
        "goal",
        "U+0000",
    ),
    BadPlan(
        "an escape in the goal of a task",
        'goal: a goal\ntasks:\n- id: a\n  goal: "\\e[2J all"\n  command: {shell: ls}\n',
        4,
        "tasks[0].goal",
        "U+001B",
    ),
    BadPlan(
        "a zero byte in a folder",
        'goal: a goal\nworking_directory: "/a\\0b"\ntasks:\n- {id: a, command: {shell: ls}}\n',
        2,
        "working_directory",
        "U+0000",
    ),
    BadPlan(
        "a zero byte in a variable",
        'goal: a goal\nenv:\n  A: "x\\0"\ntasks:\n- {id: a, command: {shell: ls}}\n',
        3,
        "env",
        "zero byte",
    ),
    BadPlan(
        "a zero byte in a function",
        'goal: a goal\ntasks:\n- id: a\n  python: {function: "m:f\\0"}\n',
        4,
        "tasks[0].python",
        "",
    ),
    BadPlan(
        "a line end in an address",
        'goal: a goal\ntasks:\n- id: a\n  http:\n    url: "http://h/\\n"\n',
        5,
        "tasks[0].http.url",
        "",
    ),
    BadPlan(
        "a line end in a header",
        "goal: a goal\ntasks:\n- id: a\n  http:\n    url: http://h/\n    headers:\n"
        '      A: "x\\r\\nB: y"\n',
        7,
        "tasks[0].http.headers",
        "control character",
    ),
    BadPlan(
        "a name that is none of a header",
        "goal: a goal\ntasks:\n- id: a\n  http:\n    url: http://h/\n    headers:\n      A B: x\n",
        7,
        "tasks[0].http.headers",
        "",
    ),
    BadPlan(
        "an id twice",
        "goal: a goal\ntasks:\n- {id: a, command: {shell: ls}}\n- {id: a, command: {shell: ls}}\n",
        4,
        "tasks[1].id",
        "a",
    ),
    BadPlan(
        "an unknown dependency",
        "goal: a goal\ntasks:\n- id: a\n  depends_on: [b]\n  command: {shell: ls}\n",
        4,
        "tasks[0].depends_on",
        "there is no task b",
    ),
    BadPlan(
        "a dependency on itself",
        "goal: a goal\ntasks:\n- id: a\n  depends_on: [a]\n  command: {shell: ls}\n",
        4,
        "tasks[0].depends_on",
        "depends on itself",
    ),
    BadPlan(
        "a dependency on its group",
        "goal: a goal\ntasks:\n"
        "- id: g\n  tasks:\n  - {id: a, depends_on: [g], command: {shell: l}}\n",
        5,
        "tasks[0].tasks[0].depends_on",
        "so it ends later",
    ),
    BadPlan(
        "a dependency on its part",
        "goal: a goal\ntasks:\n"
        "- id: g\n  depends_on: [a]\n  tasks:\n  - {id: a, command: {shell: l}}\n",
        4,
        "tasks[0].depends_on",
        "so it is done anyway",
    ),
    BadPlan(
        "a circle between groups",
        "goal: a goal\ntasks:\n"
        "- {id: g, tasks: [{id: a, depends_on: [d], command: {shell: l}}]}\n"
        "- {id: h, tasks: [{id: d, command: {shell: l}},"
        " {id: e, depends_on: [a], command: {shell: l}}]}\n",
        3,
        "tasks[0].depends_on",
        "in a circle: g → h → g",
    ),
    BadPlan(
        "a task without an action",
        "goal: a goal\ntasks:\n- id: a\n",
        3,
        "tasks[0]",
        "",
    ),
    BadPlan(
        "a time-out of a group",
        "goal: a goal\ntasks:\n"
        "- id: g\n  timeout: 5s\n  tasks:\n  - {id: a, command: {shell: l}}\n",
        3,
        "tasks[0].timeout",
        "a group has no",
    ),
    BadPlan(
        "an id with a blank",
        "goal: a goal\ntasks:\n- {id: 'a b', command: {shell: ls}}\n",
        3,
        "tasks[0].id",
        "",
    ),
    BadPlan(
        "a function without a module",
        "goal: a goal\ntasks:\n- id: a\n  python: {function: run}\n",
        4,
        "tasks[0].python",
        "",
    ),
    BadPlan(
        "an address of a file",
        "goal: a goal\ntasks:\n- id: a\n  http:\n    url: 'file:///etc/passwd'\n",
        5,
        "tasks[0].http.url",
        "",
    ),
    BadPlan(
        "too many retries",
        "goal: a goal\ntasks:\n- id: a\n  retries: 101\n  command: {shell: ls}\n",
        4,
        "tasks[0].retries",
        "",
    ),
    BadPlan(
        "a policy that is none",
        "goal: a goal\ntasks:\n- id: a\n  on_exhausted: 9\n  command: {shell: ls}\n",
        4,
        "tasks[0].on_exhausted",
        "",
    ),
    BadPlan(
        "a policy about dependencies that is none",
        "goal: a goal\ntasks:\n- id: a\n  on_dependency_failure: 9\n  command: {shell: ls}\n",
        4,
        "tasks[0].on_dependency_failure",
        "",
    ),
    BadPlan(
        "a budget of tokens",
        "goal: a goal\ntasks:\n- id: a\n  command: {shell: ls}\n"
        "  budget: {wall_seconds: 5, tokens: 7}\n",
        5,
        "tasks[0].budget.tokens",
        "",
    ),
    BadPlan(
        "a budget of no time",
        "goal: a goal\ntasks:\n- id: a\n  command: {shell: ls}\n  budget: {wall_seconds: -1}\n",
        5,
        "tasks[0].budget.wall_seconds",
        "",
    ),
    BadPlan(
        "groups too deep", _deep(21), 43, "tasks[0]" + ".tasks[0]" * 20, "deeper than 20 levels"
    ),
    BadPlan(
        "too many dependencies", _depending(1_001), 1_005, "tasks[1001].depends_on", "at most 1000"
    ),
    BadPlan("no tasks", "goal: a goal\ntasks: []\n", 2, "tasks", ""),
    BadPlan("a short goal", "goal: ab\ntasks:\n- {id: a, command: {shell: ls}}\n", 1, "goal", ""),
]


def contract_plan(text: str) -> Plan:
    """Return a plan as a client of the contract may send it."""
    return ParseDict(yaml.safe_load(text), Plan())


def plan_file(folder: Path, text: str) -> Path:
    """Write a plan, with the words of the contract put into those of files."""
    for ours, theirs in (
        ("{shell: ls}", "ls"),
        ("{shell: l}", "l"),
        ("{function: run}", "run"),
        ("timeout: 5s", "timeout_seconds: 5"),
    ):
        text = text.replace(ours, theirs)
    path = folder / "plan.yaml"
    path.write_text(text)
    return path
