"""Plans larger than a batch: written in parts, gated by PLAN_DONE, superseded when cut off."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.adopt import adopt_plan
from orchestrator_svc.graph.budget import Budget
from orchestrator_svc.graph.decide import decide
from orchestrator_svc.graph.event import CallEnded, Decision
from orchestrator_svc.graph.mutation import CreateNode, PatchNode
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.plan import (
    MAX_ID_CHARS,
    MAX_PLAN_TASKS,
    DraftTask,
    child_id,
    fits_one_review,
    in_order,
    plan_bytes,
    sub_graph_id,
)
from orchestrator_svc.graph.review import ReviewDecision
from orchestrator_svc.graph.settings import Settings
from orchestrator_svc.graph.staging import (
    half_staged,
    is_staged,
    next_child_id,
    restore_children,
)
from orchestrator_svc.graph.types import (
    NodeState,
    NodeType,
    OnDependencyFailure,
    OnExhausted,
    ProjectState,
    TaskType,
)
from orchestrator_svc.publish.encode import encode, encode_batch
from tests.unit.orchestrator_svc.driven import Driven, done, draft, load_run, plan_of
from tests.unit.orchestrator_svc.ledger import Ledger

S = NodeState
SETTINGS = Settings(max_execution_steps=0, max_concurrent_nodes=50)


def large(count: int) -> list[DraftTask]:
    """Return a plan in which every third task needs one that comes *later* in it."""
    return [
        draft(f"part {n}", *((n + 1,) if n % 3 == 0 and n + 1 < count else ()))
        for n in range(count)
    ]


def stage(driven: Driven, tasks: list[DraftTask]) -> Decision:
    """Answer the planner; nothing is durable yet."""
    call = driven.calls.pop("root")
    return decide(driven.run, [CallEnded("root", call.number, plan_of(*tasks))], driven.now)


def finish_all(driven: Driven) -> None:
    """Answer every call until the run has ended."""
    while driven.calls:
        driven.answer_all(list(driven.calls), done())


def test_a_plan_that_fits_is_one_group_and_a_larger_one_may_be_split_anywhere() -> None:
    root = Driven(settings=SETTINGS).run.nodes["root"]
    assert not is_staged(root, large(4_999), "a goal")
    assert is_staged(root, large(5_000), "a goal")
    assert is_staged(root, large(400), "long " * 2_000), "each child carries the overall goal"
    driven = Driven(settings=SETTINGS)
    groups = stage(driven, large(6_000)).groups
    assert max(len(group) for group in groups) == 1
    gate = next(
        number
        for number, (mutation, *_) in enumerate(groups)
        if isinstance(mutation, PatchNode) and mutation.changes.get("state") is S.PLAN_DONE
    )
    assert all(isinstance(mutation, CreateNode) for mutation, *_ in groups[:gate])
    assert {m.state for m, *_ in groups[:gate] if isinstance(m, CreateNode)} == {S.PENDING}
    created: set[str] = set()
    for mutation, *_ in groups[:gate]:
        assert isinstance(mutation, CreateNode)
        assert created.issuperset(mutation.depends_on), "dependencies come first"
        created.add(mutation.node_id)
    assert len(created) == 6_000


_TASKS = st.builds(
    DraftTask,
    goal=st.text(alphabet="ab🌳", min_size=3, max_size=30),
    task_type=st.sampled_from(TaskType),
    node_type=st.sampled_from([None, *NodeType]),
    depends_on=st.just(()),
    details=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
    budget=st.sampled_from(
        [None, Budget(tokens=1, cost_usd=1.5, wall_seconds=1.5, nodes=1, depth=1)]
    ),
    on_exhausted=st.sampled_from([None, *OnExhausted]),
    on_dependency_failure=st.sampled_from([None, *OnDependencyFailure]),
    max_retries=st.sampled_from([None, 100]),
)


@given(
    tasks=st.lists(_TASKS, min_size=1, max_size=12),
    id_chars=st.sampled_from([4, 60, 120, MAX_ID_CHARS]),
    density=st.floats(0, 1),
    objective=st.text(min_size=3, max_size=50),
)
def test_a_plan_is_counted_with_no_fewer_bytes_than_it_has(
    tasks: list[DraftTask], id_chars: int, density: float, objective: str
) -> None:
    tasks = [
        replace(task, depends_on=tuple(range(int(index * density))))
        for index, task in enumerate(tasks)
    ]
    run = load_run(Ledger(goal=objective))
    parent = Node(
        node_id="r" * id_chars, goal="a parent", task_type=TaskType.WRITE, layer=3, plan_count=98,
        state=S.RUNNING,
    )  # fmt: skip
    run.nodes[parent.node_id] = parent
    run.take_decision()
    adopt_plan(run, parent, tuple(tasks))
    (group,) = run.take_decision().groups
    assert len(group) == len(tasks) + 1
    size = len(encode_batch("p", 1, map(encode, group)))
    counted = plan_bytes(tasks, objective, next_child_id(parent))
    assert size <= counted
    assert counted <= size + 1_000 + 450 * len(tasks), "not many more either"


def test_a_dense_plan_with_long_ids_is_staged_and_can_be_reviewed() -> None:
    tasks = [draft(f"part {n}", *range(n)) for n in range(440)]
    short, deep = (
        Node(node_id="root", goal="g", task_type=TaskType.WRITE, layer=0),
        Node(node_id="root" + ".1.0" * 7, goal="g", task_type=TaskType.WRITE, layer=7),
    )
    assert not is_staged(short, tasks, "a goal")
    assert is_staged(deep, tasks, "a goal")
    assert fits_one_review(tasks)


def test_an_approved_plan_that_is_larger_than_a_batch_is_staged_and_survives_a_crash() -> None:
    # The overall goal is in every child, and not in the review.
    tasks = [draft(f"part {n}") for n in range(80)]
    settings = replace(SETTINGS, enable_hitl=True)
    driven = Driven(Ledger(goal="🌳" * 10_000), settings)
    driven.answer("root", plan_of(*tasks))
    review_id = driven.node("root").review_id
    assert review_id
    closed = driven.ledger.resolve(review_id, ReviewDecision.APPROVE, "", None)
    decision = decide(driven.run, [closed], driven.now)
    assert max(len(group) for group in decision.groups) == 1, "written in parts"
    driven.ledger.commit(decision.groups[:30])
    driven.crash()
    assert driven.node("root").children[0] == "root.2.0", "carried out once more, with other ids"
    finish_all(driven)
    assert driven.ledger.state is ProjectState.COMPLETED


def test_the_order_leaves_out_what_waits_for_each_other() -> None:
    tasks = [draft("a", 1), draft("b", 2), draft("c"), draft("d", 4), draft("e", 3)]
    assert list(in_order(tasks)) == [2, 1, 0]


def test_a_staged_plan_runs_to_its_end_and_survives_a_crash() -> None:
    driven = Driven(settings=SETTINGS)
    driven._take(stage(driven, large(5_500)))
    assert driven.node("root").children == (), "the store does not list so many"
    expected = tuple(f"root.1.{n}" for n in range(5_500))
    assert driven.run.nodes["root"].children == expected
    driven.answer_all(list(driven.calls), done())
    driven.crash()
    assert driven.run.nodes["root"].children == expected, "in plan order"
    finish_all(driven)
    assert driven.ledger.state is ProjectState.COMPLETED
    runs = [id_ for id_, state, _ in driven.ledger.moves if state is S.DONE]
    assert len(runs) == len(set(runs)) == 5_501


def check_cut_off(count: int, durable: int) -> None:
    """Lose the end of a plan that is being written; the next plan has other ids."""
    driven = Driven(settings=SETTINGS)
    decision = stage(driven, large(count))
    driven.ledger.commit(decision.groups[:durable])
    driven.crash()
    old = [id_ for id_ in driven.ledger.nodes if id_.startswith("root.1.")]
    assert len(old) == min(durable, count)
    gone = durable <= count
    for id_ in old:
        node = driven.ledger.nodes[id_]
        assert node.superseded is gone
        assert not gone or node.state is S.CANCELLED
    if gone:
        assert set(driven.calls) == {"root"}, "only the planner is asked"
        driven.answer("root", plan_of(draft("one"), draft("two")))
        assert driven.node("root").children == ("root.2.0", "root.2.1")
    finish_all(driven)
    assert driven.ledger.state is ProjectState.COMPLETED
    ran = {id_ for id_, state, _ in driven.ledger.moves if state is S.RUNNING}
    assert not gone or not ran.intersection(old), "nothing of a plan without its gate has run"


@pytest.mark.parametrize("durable", [1, 3_000, 5_100, 5_101, 7_000])
def test_a_plan_that_is_cut_off_before_its_gate_is_superseded(durable: int) -> None:
    check_cut_off(5_100, durable)


def test_superseding_that_is_cut_off_is_finished() -> None:
    driven = Driven(settings=SETTINGS)
    driven.ledger.commit(stage(driven, large(5_000)).groups[:10])
    for id_ in [id_ for id_ in driven.ledger.nodes if id_ != "root"][:4]:
        driven.ledger.nodes[id_].superseded = True
        driven.ledger.nodes[id_].state = S.CANCELLED
    driven.crash()
    assert all(node.superseded for id_, node in driven.ledger.nodes.items() if id_ != "root")
    assert driven.node("root").plan_count == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_plan_of_a_hundred_thousand_that_is_cut_off_half_way_is_superseded() -> None:
    check_cut_off(100_000, 50_000)


def test_a_cut_off_plan_is_found_by_ids_of_any_length() -> None:
    """Ids of deep nodes are shortened; those of a plan's children still tell which plan it is."""
    parent = "root" + ".1.4998" * 17
    assert len(parent) > MAX_ID_CHARS - 7
    node = Node(node_id=parent, goal="deep", task_type=TaskType.THINK, layer=17, plan_count=1)
    places = (0, 1, 10, 5_000, MAX_PLAN_TASKS - 1)
    ids = [child_id(sub_graph_id(parent, 2), index) for index in places]
    assert max(map(len, ids)) <= MAX_ID_CHARS
    children = [
        Node(node_id=id_, goal="a part", task_type=TaskType.THINK, layer=18, parent_id=parent)
        for id_ in ids
    ]
    found = half_staged({n.node_id: n for n in (node, *children)})
    assert found == {parent: children}
    node.plan_count, node.sub_graph_id = 2, sub_graph_id(parent, 2)
    many = [
        Node(node_id=id_, goal="a part", task_type=TaskType.THINK, layer=18, parent_id=parent)
        for id_ in (child_id(sub_graph_id(parent, 2), index) for index in reversed(range(5_001)))
    ]
    restore_children([node, *many])
    assert node.children == tuple(
        child_id(sub_graph_id(parent, 2), index) for index in range(5_001)
    )
