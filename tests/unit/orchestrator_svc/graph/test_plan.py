"""Plans are checked whole, and every problem is named (S4.4)."""

from __future__ import annotations

import itertools
from dataclasses import replace

from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.details import canonical
from orchestrator_svc.graph.plan import (
    MAX_ID_CHARS,
    MAX_PLAN_TASKS,
    DraftTask,
    bounded_id,
    check_plan,
    child_id,
    sub_graph_id,
)
from orchestrator_svc.publish.value import read_value, set_value
from tests.unit.orchestrator_svc.driven import draft


def problems(*tasks: DraftTask, layer: int = 0, max_depth: int = 5) -> list[str]:
    return check_plan(tasks, layer=layer, max_depth=max_depth, objective="a goal")


def test_a_good_plan_has_no_problems() -> None:
    assert problems(draft("one"), draft("two\tlines\r\n\u2028", 0), draft("three", 0, 1)) == []


def test_an_empty_plan_is_refused() -> None:
    assert problems() == ["the plan has no tasks"]


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        draft("no"),
        draft("two", 19, -1),
        draft("three", 2),
        draft("four", 4),
        draft("five", 3),
        draft("six", 0, 0),
        replace(draft("seven"), details={"big": "x" * 20_000}),
        replace(draft("eight"), details={"nan": float("nan")}),
        draft("\ud800 surrogate"),
        draft("ten\x9b2J"),
        layer=5,
    )
    text = "\n".join(found)
    for expected in (
        "layer 5 may not be planned",
        "task 0: the goal has 2 characters",
        "task 1: depends on [19, -1]",
        "task 2: depends on itself",
        "in a circle: 3 → 4 → 3",
        "task 5: names a dependency twice",
        "task 6: the details have",
        "task 7: the details have a number that cannot be stored exactly: nan",
        "task 8: the goal is not valid Unicode",
        "task 9: the goal holds the control character U+009B",
    ):
        assert expected in text


def test_a_plan_that_is_too_large_is_refused() -> None:
    found = problems(*[draft()] * (MAX_PLAN_TASKS + 1))
    assert found == [
        f"the plan has {MAX_PLAN_TASKS + 1} tasks, at most {MAX_PLAN_TASKS} are allowed"
    ]
    assert problems(*[draft("x" * 10_000)] * 300) == []
    assert "bytes" in problems(*[draft("x" * 10_000)] * 13_000)[0]


def test_a_plan_with_countless_problems_reports_the_first_of_them() -> None:
    found = problems(*[draft("x")] * 4_000)
    assert len(found) == 51
    assert found[-1] == "3950 more problems"


@given(st.lists(st.lists(st.integers(0, 7), max_size=3, unique=True), min_size=1, max_size=8))
def test_a_plan_is_accepted_exactly_when_its_tasks_can_be_put_in_order(
    edges: list[list[int]],
) -> None:
    tasks = [draft("task", *(i for i in row if i < len(edges))) for row in edges]
    left, progress = set(range(len(tasks))), True
    while progress:
        free = {i for i in left if not set(tasks[i].depends_on) & left}
        progress = bool(free)
        left -= free
    assert (problems(*tasks) == []) == (not left)


def test_child_ids_are_bounded_and_never_the_same_for_different_places() -> None:
    level = ["root"]
    seen = set(level)
    for _ in range(20):
        places = itertools.product(level[:3], (1, 2), (0, 4_998))
        level = [child_id(sub_graph_id(parent, plan), index) for parent, plan, index in places]
        assert all(len(node_id) <= MAX_ID_CHARS for node_id in level)
        assert not seen & set(level)
        seen |= set(level)
    assert bounded_id("short") == "short"


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    )
)
def test_details_read_back_from_the_store_are_what_the_first_agent_saw(value: object) -> None:
    seen = canonical(value)  # type: ignore[arg-type]
    stored = Value()
    set_value(stored, seen)
    assert read_value(Value.FromString(stored.SerializeToString())) == seen
    assert canonical(seen) == seen
