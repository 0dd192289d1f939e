"""Plan files: what they mean, and what is said about those that cannot be run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from ramify.plan_file import read_plan_file
from ramify.plan_source import PlanFileError
from tests.support.plans import BAD_PLANS, LARGEST_PLANS, BadPlan, plan_file

EXAMPLES = Path(__file__).parents[3] / "examples"


def read(folder: Path, text: str) -> dict[str, object]:
    """Return the plan of a text, as JSON."""
    plan = read_plan_file(plan_file(folder, text)).plan
    return MessageToDict(plan, preserving_proto_field_name=True)


def refusal(folder: Path, text: str) -> str:
    """Return why a text is no plan."""
    with pytest.raises(PlanFileError) as error:
        read_plan_file(plan_file(folder, text))
    return str(error.value)


def test_every_word_has_its_place_in_the_contract(tmp_path: Path) -> None:
    text = """
goal: everything
working_directory: sub
env: {A: b, PORT: 8080}
timeout_seconds: 1.5
retries: 2
on_exhausted: pause
settings: {max_concurrent_nodes: 3, skip_atomization: true}
labels: {team: docs}
tasks:
- id: shell
  command: echo hello
- id: argv
  goal: sleep a little
  depends_on: [shell]
  command: [sleep, 1]
  output: json
  pass_dependencies: true
  retries: 0
  on_exhausted: ask
  on_dependency_failure: run
- id: group
  budget: {wall_seconds: 90}
  env: {C: d}
  tasks:
  - {id: fn, python: "a.b:c", args: [1, x, [null]], kwargs: {k: {deep: true}}}
  - id: web
    http:
      {url: "http://localhost/x", method: POST, headers: {X-A: b}, body: hi, expected_status: [201]}
"""
    file = read_plan_file(plan_file(tmp_path, text))
    assert file.settings == ["max_concurrent_nodes=3", "skip_atomization=true"]
    assert file.labels == {"team": "docs"}
    plan = MessageToDict(file.plan, preserving_proto_field_name=True)
    assert plan == {
        "goal": "everything",
        "working_directory": str(tmp_path / "sub"),
        "env": {"A": "b", "PORT": "8080"},
        "timeout": "1.500s",
        "retries": 2,
        "on_exhausted": "EXHAUSTED_POLICY_PAUSE",
        "tasks": [
            {
                "id": "shell",
                "command": {"shell": "echo hello", "output": "PLAN_OUTPUT_TEXT"},
            },
            {
                "id": "argv",
                "goal": "sleep a little",
                "depends_on": ["shell"],
                "command": {"argv": ["sleep", "1"], "output": "PLAN_OUTPUT_JSON"},
                "pass_dependencies": True,
                "retries": 0,
                "on_exhausted": "EXHAUSTED_POLICY_ASK",
                "on_dependency_failure": "DEPENDENCY_POLICY_RUN",
            },
            {
                "id": "group",
                "budget": {"wall_seconds": 90.0},
                "env": {"C": "d"},
                "tasks": [
                    {
                        "id": "fn",
                        "python": {
                            "function": "a.b:c",
                            "args": [1.0, "x", [None]],
                            "kwargs": {"k": {"deep": True}},
                        },
                    },
                    {
                        "id": "web",
                        "http": {
                            "url": "http://localhost/x",
                            "method": "POST",
                            "headers": {"X-A": "b"},
                            "body": "hi",
                            "expected_status": [201],
                            "output": "PLAN_OUTPUT_TEXT",
                        },
                    },
                ],
            },
        ],
    }


def test_a_folder_of_the_user_is_one_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    tasks = "tasks:\n- {id: a, working_directory: ~/here, command: ls}\n"
    plan = read(tmp_path, "goal: a goal\nworking_directory: ~/there\n" + tasks)
    assert plan["working_directory"] == str(tmp_path / "ada" / "there")
    assert isinstance(plan["tasks"], list)
    assert plan["tasks"][0]["working_directory"] == str(tmp_path / "ada" / "here")


def test_json_is_read_too(tmp_path: Path) -> None:
    document = {"goal": "a goal", "tasks": [{"id": "a", "command": ["true"]}]}
    assert read(tmp_path, json.dumps(document))["goal"] == "a goal"


@pytest.mark.parametrize("bad", BAD_PLANS, ids=lambda bad: bad.name)
def test_a_bad_plan_is_refused_with_its_line(tmp_path: Path, bad: BadPlan) -> None:
    said = refusal(tmp_path, bad.text)
    assert said.startswith(f"{tmp_path}/plan.yaml:{bad.line}: "), said
    assert bad.said in said
    assert "\n" not in said, "one problem, one line"


@pytest.mark.parametrize(
    "text, said",
    [
        ("goal: a goal\ntasks:\n- id: a\n  comand: ls\n", ":4: task a: comand: is not a key here"),
        (
            "goal: a goal\ntasks:\n- {id: a, command: [ls, yes]}\n",
            ":3: task a: command: has a word that is no text (True)",
        ),
        ("goal: a goal\ntasks:\n- {id: a, command: [sleep, 1.5]}\n", "(1.5); put it into quotes"),
        ('goal: a goal\ntasks:\n- {id: a, command: "a\\0"}\n', ":3: task a: command: holds a zero"),
        ("goal: a goal\ngoal: b goal\ntasks: []\n", ":2: 'goal' is there twice"),
        ("goal: a goal\ntasks:\n- id: [\n", ":4: "),
        ("goal: a goal\n", ":1: tasks: is needed"),
        ("- a\n", "is no mapping"),
        ("", "is no mapping"),
        ("goal: a goal\ntasks:\n- {id: a, command: ls, python: 'a:b'}\n", "command and python"),
        ("goal: a goal\ntasks:\n- {id: a, command: ls, args: [1]}\n", "args and kwargs are for"),
    ],
)
def test_a_file_of_another_shape_is_refused_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    assert said in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "goal: a goal\ntasks: [{id: z, python: 'm:f', args: [\n&a0 [l,l,l,l,l,l,l,l,l],\n"
            + "".join(f"&a{n} [{','.join([f'*a{n - 1}'] * 9)}],\n" for n in range(1, 40))
            + "]}]\n",
            ":9: has more than 1000000 values",
        ),
        ("goal: a goal\ntasks: &t\n- id: a\n  tasks: *t\n", ":4: *t is a part of what"),
        ("goal: a goal\ntasks: [{id: a, python: 'm:f', args: &x [*x]}]\n", ":2: *x is a part"),
        ("goal: a goal\ntasks: " + "[" * 200_000, ":2: is nested deeper than 100 levels"),
    ],
    ids=["bomb", "task in itself", "argument in itself", "depth"],
)
def test_a_file_that_would_never_be_read_is_refused_at_once(
    tmp_path: Path, text: str, said: str
) -> None:
    assert said in refusal(tmp_path, text)


def test_a_file_or_a_plan_that_is_too_large_is_refused(tmp_path: Path) -> None:
    task = "goal: a goal\ntasks:\n- {id: a, command: 'echo %s'}\n"
    assert refusal(tmp_path, task % ("x" * (1 << 20))).endswith("bytes, at most 1048576")
    assert "has more than 4194304 bytes" in refusal(tmp_path, task % ("x" * (4 << 20)))


@pytest.mark.parametrize("text", LARGEST_PLANS, ids=["levels", "dependencies"])
def test_what_is_at_a_limit_is_read(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text)["goal"] == "a goal"


def test_aliases_stand_for_what_they_name(tmp_path: Path) -> None:
    text = "goal: a goal\ntasks:\n- {id: a, env: &e {A: b}, command: ls}\n"
    plan = read(tmp_path, text + "- {id: b, env: *e, command: ls}\n")
    tasks = plan["tasks"]
    assert isinstance(tasks, list)
    assert tasks[0]["env"] == tasks[1]["env"] == {"A": "b"}


@pytest.mark.parametrize(
    "argument, said",
    [
        (".nan", "nan is no number of JSON"),
        ("{deep: [-.inf]}", "-inf is no number of JSON"),
        ("9007199254740993", "is too large to be exact; put it into quotes"),
        ("2020-01-01", "is a date; put it into quotes"),
    ],
)
def test_an_argument_that_would_come_as_another_is_refused(
    tmp_path: Path, argument: str, said: str
) -> None:
    text = "goal: a goal\ntasks:\n- id: a\n  python: m:f\n  args: [" + argument + "]\n"
    assert said in refusal(tmp_path, text)
    assert ":5: task a: args: " in refusal(tmp_path, text)


def test_every_escape_of_json_is_read(tmp_path: Path) -> None:
    said = "tab\there, \U0001f600 and \\ud83d\\ude00, a/b"
    document = {"goal": said, "tasks": [{"id": "a", "command": ["true"]}]}
    for text in (json.dumps(document), json.dumps(document, indent="\t").replace("/", "\\/")):
        assert read(tmp_path, text)["goal"] == said


def test_what_looks_like_an_escape_of_json_stays_as_it_is_in_a_literal_of_yaml(
    tmp_path: Path,
) -> None:
    said = "\\ud83d\\ude00"
    text = f"goal: a goal\ntasks:\n- id: a\n  command: [printf, '{said}']\n"
    (task,) = read_plan_file(plan_file(tmp_path, text)).plan.tasks
    assert list(task.command.argv) == ["printf", said]


def test_the_home_of_nobody_is_an_ordinary_name(tmp_path: Path) -> None:
    text = "goal: a goal\ntasks:\n- {id: a, command: ['true'], working_directory: ~nobody-here/x}\n"
    (task,) = read_plan_file(plan_file(tmp_path, text)).plan.tasks
    assert task.working_directory == "~nobody-here/x"


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    text = "goal: a goal\ntasks:\n- {id: a, depends_on: [x], command: ls}\n- {id: b}\n"
    assert len(refusal(tmp_path, text).splitlines()) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanFileError, match=r"absent\.yaml: No such file"):
        read_plan_file(tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes("goal: \xe9t\xe9".encode("latin-1"))
    with pytest.raises(PlanFileError, match=r"latin\.yaml: is not UTF-8"):
        read_plan_file(tmp_path / "latin.yaml")


def test_the_examples_are_good_plans() -> None:
    assert len(read_plan_file(EXAMPLES / "take_stock.yaml").plan.tasks) == 5
    assert len(read_plan_file(EXAMPLES / "research.yaml").plan.tasks) == 8
