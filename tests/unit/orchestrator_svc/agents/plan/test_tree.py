"""Plans as the orchestrator takes them from any client."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict

from orchestrator_svc.agents.plan.agents import planned
from orchestrator_svc.agents.plan.tree import InvalidPlan, PlanTree, read_plan
from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.plan import MAX_TASK_DEPENDENCIES
from orchestrator_svc.graph.types import OnDependencyFailure, OnExhausted
from ramify.v1.plan_pb2 import Plan, PlanTask
from tests.support.plans import BAD_PLANS, LARGEST_PLANS, BadPlan, contract_plan

LIST: dict[str, object] = {"command": {"shell": "ls"}}


def tree(tasks: str) -> PlanTree:
    """Return a plan of tasks in YAML."""
    return read_plan(contract_plan(f"goal: a goal\ntasks:\n{tasks}"))


@pytest.mark.parametrize("bad", BAD_PLANS, ids=lambda bad: bad.name)
def test_a_bad_plan_is_refused_with_its_place(bad: BadPlan) -> None:
    with pytest.raises(InvalidPlan) as error:
        read_plan(contract_plan(bad.text))
    (problem,) = error.value.problems
    assert problem.path == bad.path
    assert bad.said in problem.text


def test_many_problems_are_counted_and_the_first_ones_shown() -> None:
    plan = Plan(goal="a goal", tasks=[PlanTask(id=f"t{n}") for n in range(80)])
    with pytest.raises(InvalidPlan, match="30 more problems") as error:
        read_plan(plan)
    assert len(error.value.problems) == 50


@pytest.mark.parametrize("text", LARGEST_PLANS, ids=["levels", "dependencies"])
def test_what_is_at_a_limit_is_taken(text: str) -> None:
    assert read_plan(contract_plan(text)).by_id


def test_the_numbers_of_a_task_have_ends() -> None:
    good: list[dict[str, object]] = [
        {"id": "a" * 64},
        {"id": "a", "retries": 100},
        {"id": "a", "timeout": "86400s"},
    ]
    bad: list[dict[str, object]] = [
        {"id": "a" * 65},
        {"id": "a", "retries": 101},
        {"id": "a", "timeout": "86400.001s"},
    ]
    for keys in good:
        tree_of = read_plan(ParseDict({"goal": "a goal", "tasks": [{**keys, **LIST}]}, Plan()))
        assert keys["id"] in tree_of.by_id
    for keys in bad:
        with pytest.raises(InvalidPlan) as error:
            read_plan(ParseDict({"goal": "a goal", "tasks": [{**keys, **LIST}]}, Plan()))
        (problem,) = error.value.problems
        assert problem.path == f"tasks[0].{list(keys)[-1]}"


def test_a_plan_that_is_too_large_is_refused() -> None:
    plan = Plan(goal="a goal")
    plan.tasks.add(id="a").command.shell = "x" * (1 << 20)
    with pytest.raises(InvalidPlan, match="at most 1048576"):
        read_plan(plan)


def test_tasks_inherit_what_they_do_not_say_themselves() -> None:
    plan = contract_plan("""
goal: a goal
working_directory: /base
env: {A: "1", B: "1"}
timeout: 5s
retries: 2
tasks:
- id: g
  working_directory: sub
  env: {B: "2"}
  retries: 0
  tasks:
  - {id: a, command: {shell: l}, working_directory: inner, env: {C: "3"}, timeout: 1.5s}
  - {id: b, command: {shell: l}, working_directory: /else, retries: 7}
- {id: c, command: {shell: l}}
""")
    read = read_plan(plan)
    shown = {
        id_: (task.working_directory, dict(task.env), task.timeout, task.retries)
        for id_, task in read.by_id.items()
    }
    assert shown == {
        "g": ("/base/sub", {"A": "1", "B": "2"}, 5.0, 0),
        "a": ("/base/sub/inner", {"A": "1", "B": "2", "C": "3"}, 1.5, 0),
        "b": ("/else", {"A": "1", "B": "2"}, 5.0, 7),
        "c": ("/base", {"A": "1", "B": "1"}, 5.0, 2),
    }
    assert read.depth == 2
    assert read.longest_timeout == 5.0


def test_a_dependency_in_another_group_holds_the_groups_apart() -> None:
    read = tree("""
- id: g
  tasks:
  - {id: a, command: {shell: l}}
  - {id: b, depends_on: [a, f], command: {shell: l}}
- id: h
  tasks:
  - id: i
    tasks:
    - {id: f, command: {shell: l}}
  - {id: e, depends_on: [f], command: {shell: l}}
""")
    assert {id_: task.depends_on for id_, task in read.by_id.items()} == {
        "g": (1,),
        "a": (),
        "b": (0,),
        "h": (),
        "i": (),
        "f": (),
        "e": (0,),
    }


def test_a_group_needs_no_more_tasks_than_a_plan_of_the_engine_may_name() -> None:
    leaves = "\n".join(
        f"- {{id: l{n}, command: {{shell: l}}}}" for n in range(MAX_TASK_DEPENDENCIES + 1)
    )
    first = ", ".join(f"l{n}" for n in range(MAX_TASK_DEPENDENCIES))
    group = f"""
- id: g
  tasks:
  - {{id: a, depends_on: [{first}], command: {{shell: l}}}}
  - {{id: b, depends_on: [l0%s], command: {{shell: l}}}}
"""
    read = tree(leaves + group % "")
    assert read.by_id["g"].depends_on == tuple(range(MAX_TASK_DEPENDENCIES))
    with pytest.raises(InvalidPlan, match="with its tasks it needs 1001 tasks, at most 1000"):
        tree(leaves + group % f", l{MAX_TASK_DEPENDENCIES}")


def test_the_steps_of_a_plan_follow_from_its_size() -> None:
    assert tree("- {id: a, command: {shell: l}, retries: 3}").steps == 2 * (2 + 4)
    grouped = tree("- {id: g, tasks: [{id: a, command: {shell: l}}]}")
    assert grouped.steps == 2 * (2 + 2 + 1)
    many = Plan(goal="a goal")
    for number in range(5_000):
        many.tasks.add(id=f"t{number}").command.shell = "l"
    assert read_plan(many).steps == 0, "more than the key can say: unlimited"


def test_a_task_without_a_goal_is_named_after_what_it_does() -> None:
    read = tree(
        "- {id: a, command: {argv: [echo, 'two words']}}\n- {id: b, goal: why, http: "
        "{url: 'http://x'}}\n- {id: c, tasks: [{id: d, python: {function: 'm:f'}}]}\n"
        '- {id: e, command: {shell: "printf \\e[1m"}}'
    )
    goals = {id_: task.goal for id_, task in read.by_id.items()}
    assert goals == {
        "a": "a: echo 'two words'",
        "b": "why",
        "c": "group c",
        "d": "d: m:f",
        "e": "e: printf \ufffd[1m",
    }


def test_a_policy_is_handed_down_a_budget_and_what_a_failed_dependency_means_are_not() -> None:
    read = read_plan(
        contract_plan("""
goal: a goal
on_exhausted: EXHAUSTED_POLICY_PAUSE
tasks:
- {id: a, command: {shell: l}}
- id: g
  on_exhausted: EXHAUSTED_POLICY_ASK
  on_dependency_failure: DEPENDENCY_POLICY_SKIP
  budget: {wall_seconds: 60}
  tasks:
  - {id: b, command: {shell: l}}
  - {id: c, command: {shell: l}, on_exhausted: EXHAUSTED_POLICY_FAIL, budget: {}}
""")
    )
    made = {id_: planned(task) for id_, task in read.by_id.items()}
    shown = {
        id_: (task.on_exhausted, task.on_dependency_failure, task.budget)
        for id_, task in made.items()
    }
    assert shown == {
        "a": (OnExhausted.PAUSE, None, None),
        "g": (OnExhausted.ASK, OnDependencyFailure.SKIP, Budget(wall_seconds=60.0)),
        "b": (OnExhausted.ASK, None, None),
        "c": (OnExhausted.FAIL, None, None),
    }
