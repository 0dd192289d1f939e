"""What an agent sees is bounded, complete in its nodes, and the same each time (S4.7)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.base import AgentInput, Output, RelatedNode, TaskType
from orchestrator_svc.engine.context import (
    ANCESTORS_SHARE,
    MAX_SIBLINGS_SEEN,
    SIBLING_TOKENS,
    SIBLINGS_SHARE,
    Views,
    agent_input,
)
from orchestrator_svc.engine.excerpt import (
    MARK,
    NODE_TOKENS,
    cut,
    fit,
    node_tokens,
    shortened,
    tokens_of,
)
from orchestrator_svc.graph.event import Produced
from orchestrator_svc.graph.node import Failure, Node, Result
from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, Stage
from tests.unit.orchestrator_svc.driven import (
    DEFAULTS,
    Driven,
    done,
    draft,
    failed,
    plan_of,
    planned,
)

FLOOR = NODE_TOKENS + 8  #: of a node that is shortened as far as possible


def related(
    node_id: str, text: str = "", *, summary: str = "", goal: str = "a goal", error: str = ""
) -> RelatedNode:
    return RelatedNode(
        node_id=node_id,
        goal=goal,
        task_type=TaskType.SEARCH,
        state="FAILED" if error else "DONE",
        output=None if error else Output(content_type="text/markdown", text=text, summary=summary),
        error=error,
    )


texts = st.text(max_size=2_000) | st.integers(0, 20_000).map("x".__mul__)
nodes = st.lists(
    st.builds(related, st.uuids().map(str), texts, summary=st.text(max_size=200), goal=texts),
    max_size=12,
)


@given(texts, st.integers(0, 5_000))
def test_a_cut_text_is_the_longest_beginning_that_fits(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert tokens_of(short) <= limit
    if short != text and short:
        begin = short.removesuffix(MARK)
        assert text.startswith(begin)
        assert tokens_of(text[: len(begin) + 1]) > limit - tokens_of(MARK)


@pytest.mark.parametrize(
    "text, tokens", [("", 0), ("a", 1), ("word" * 10, 10), ("任务节点", 4), ("für", 2)]
)
def test_the_estimate_is_as_documented(text: str, tokens: int) -> None:
    assert tokens_of(text) == tokens


@given(nodes, st.integers(0, 20_000))
def test_nodes_fit_none_is_left_out_and_the_order_is_kept(
    given_nodes: list[RelatedNode], limit: int
) -> None:
    fitted = fit(given_nodes, limit)
    assert [n.node_id for n in fitted] == [n.node_id for n in given_nodes]
    assert sum(map(node_tokens, fitted)) <= max(limit, FLOOR * len(fitted))
    assert fit(given_nodes, limit) == fitted
    for before, after in zip(given_nodes, fitted, strict=True):
        assert after == before or after.shortened


def test_the_longest_are_shortened_first_and_alike() -> None:
    long, longer = related("a", "x" * 40_000), related("b", "y" * 80_000)
    short = related("c", "z" * 400)
    fitted = fit([long, short, longer], 4_000)
    assert fitted[1] == short
    sizes = [node_tokens(fitted[0]), node_tokens(fitted[2])]
    assert abs(sizes[0] - sizes[1]) <= 2
    assert 3_900 <= sum(map(node_tokens, fitted)) <= 4_000


def test_a_shortened_result_is_its_summary_and_its_beginning_as_plain_text() -> None:
    (node,) = fit([related("a", "body " * 1_000, summary="what it says")], 300)
    assert node.output is not None
    assert node.output.summary == "what it says"
    assert node.output.text.startswith("body body")
    assert node.output.text.endswith(MARK)
    assert (node.output.content_type, node.shortened) == ("text/plain", True)


def test_bytes_that_are_too_long_leave_their_summary() -> None:
    picture = related("a", summary="a picture")
    assert picture.output is not None
    output = picture.output.model_copy(update={"data": b"\0" * 9_000, "text": ""})
    (node,) = fit([picture.model_copy(update={"output": output})], 300)
    assert node.output is not None
    assert (node.output.data, node.output.summary) == (b"", "a picture")


def test_the_error_of_a_failed_node_is_shown() -> None:
    (node,) = fit([related("a", error="broken " * 1_000)], 100)
    assert node.error.startswith("broken")
    assert node_tokens(node) <= 100


# Of a run


@given(
    goal=st.integers(3, 900),
    error=st.integers(0, 900),
    summary=st.integers(0, 4_000),
    limit=st.integers(0, 1_000),
)
def test_a_sibling_is_shown_as_shortening_leaves_it(
    goal: int, error: int, summary: int, limit: int
) -> None:
    node = Node(
        node_id="n",
        goal="g" * goal,
        task_type=TaskType.THINK,
        layer=1,
        state=NodeState.DONE,
        result=Result(text="t", summary="s" * summary),
        error=Failure(ErrorClass.EXECUTION, "e" * error) if error else None,
    )
    shown, tokens = Views().sibling(node, limit)
    limit = min(limit, SIBLING_TOKENS)
    assert shown == shortened(shown, limit)
    assert (shown.shortened, tokens) == (True, node_tokens(shown))


def view(driven: Driven, node_id: str) -> AgentInput:
    return agent_input(driven.run, driven.calls[node_id], project_id="p", options={})


def produced(text: str, summary: str = "") -> Produced:
    return Produced(Result(text=text, summary=summary))


def test_an_agent_sees_goal_ancestors_dependencies_and_the_siblings_before_it() -> None:
    driven = planned(
        draft("first"),
        draft("second"),
        draft("third", 0, node_type=NodeType.PLAN),
        draft("fourth", 2),
    )
    driven.answer("root.1.1", produced("second's text", "second's summary"))
    driven.answer("root.1.0", produced("first's text"))
    driven.answer("root.1.2", plan_of(draft("inner"), draft("later", 0)))
    third = view(driven, "root.1.2.1.0")
    assert third.overall_objective == "a goal"
    assert [(a.node_id, a.goal) for a in third.ancestors] == [
        ("root", "a goal"),
        ("root.1.2", "third"),
    ]
    assert third.dependencies == third.siblings == third.children == ()
    driven.answer("root.1.2.1.0", done("inner's text"))
    driven.answer("root.1.2.1.1", done())
    driven.answer("root.1.2", done("third's text"))
    fourth = view(driven, "root.1.3")
    (needed,) = fourth.dependencies
    assert needed.output is not None
    assert (needed.node_id, needed.output.text) == ("root.1.2", "third's text")
    assert [s.node_id for s in fourth.siblings] == ["root.1.0", "root.1.1"]
    outputs = [s.output for s in fourth.siblings if s.output]
    assert [o.summary for o in outputs] == ["first's text", "second's summary"]
    assert [o.text for o in outputs] == ["", ""]


def test_what_failed_or_is_open_is_no_sibling_before() -> None:
    driven = planned(draft("first"), draft("second"), draft("third"))
    driven.answer("root.1.0", failed())
    assert view(driven, "root.1.2").siblings == ()


def test_an_aggregator_sees_all_children_failed_ones_as_failed_and_no_siblings() -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_retries=0))
    driven.answer("root.1.0", failed())
    driven.answer("root.1.1", done("text"))
    task = view(driven, "root")
    assert [(c.node_id, c.state) for c in task.children] == [
        ("root.1.0", "FAILED"),
        ("root.1.1", "DONE"),
    ]
    assert task.children[0].error == "EXECUTION: it broke"
    assert task.siblings == ()


def test_only_the_nearest_siblings_are_looked_at() -> None:
    count = MAX_SIBLINGS_SEEN + 10
    settings = replace(DEFAULTS, max_concurrent_nodes=count + 1)
    driven = planned(*[draft()] * (count + 1), settings=settings)
    driven.answer_all([f"root.1.{n}" for n in range(count)], done())
    ids = [s.node_id for s in view(driven, f"root.1.{count}").siblings]
    assert ids == [f"root.1.{n}" for n in range(10, count)]


@pytest.mark.execution_key("max_context_tokens")
@pytest.mark.parametrize("limit", [1_000, 3_000, 200_000])
def test_max_context_tokens_bounds_all_of_it_after_a_crash_too(limit: int) -> None:
    settings = replace(DEFAULTS, max_context_tokens=limit)
    driven = planned(*[draft("g" * 1_200)] * 4, draft("last", 0, 1, 2), settings=settings)
    for number in range(4):
        driven.answer(f"root.1.{number}", produced(f"{number}" * 8_000, "s" * 400))
    task = view(driven, "root.1.4")
    parts = (task.ancestors, task.dependencies, task.siblings)
    total = tokens_of(task.overall_objective) + tokens_of(task.goal)
    total += sum(node_tokens(node) for part in parts for node in part)
    assert total <= limit
    assert all(node.shortened for node in task.dependencies) is (limit < 10_000)
    assert sum(map(node_tokens, task.ancestors)) <= limit * ANCESTORS_SHARE
    assert sum(map(node_tokens, task.siblings)) <= limit * SIBLINGS_SHARE
    driven.crash()
    assert view(driven, "root.1.4").model_copy(update={"attempt": 1}) == task
    assert driven.calls["root.1.4"].stage is Stage.EXECUTE
