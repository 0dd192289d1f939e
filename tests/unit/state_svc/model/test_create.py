"""What a new node must be (SEM 9)."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.mutation_pb2 import Mutation, NodeMutation
from ramify.v1.node_pb2 import Node, NodeState, TaskType
from state_svc.errors import BatchRejected
from state_svc.model import limits
from state_svc.model.apply import apply_batch
from state_svc.model.project import LiveProject
from tests.support.live import ILLEGAL, INVALID, NOW, live_project, node, refusals, write
from tests.support.mutations import READY, create, delete, patch


@pytest.fixture
def project() -> LiveProject:
    return live_project(create("root"), create("old"))


def test_a_new_node_is_pending_unless_it_is_said_to_be_ready(project: LiveProject) -> None:
    write(project, create("a"), create("b", state=READY))
    assert node(project, "a").state == NodeState.NODE_STATE_PENDING
    assert node(project, "b").state == READY


def test_a_new_node_has_version_1_and_the_stamps_of_its_commit(project: LiveProject) -> None:
    write(project, create("a"), micros=NOW + 7)
    shown = node(project, "a")
    assert (shown.version, shown.update_revision) == (1, 3)
    assert shown.create_time.ToMicroseconds() == NOW + 7
    assert shown.update_time.ToMicroseconds() == NOW + 7
    assert not shown.HasField("start_time")


@pytest.mark.parametrize("state", NodeState.values()[1:])
def test_a_node_is_created_in_an_initial_state_only(
    project: LiveProject, state: NodeState.ValueType
) -> None:
    initial = state in (NodeState.NODE_STATE_PENDING, NodeState.NODE_STATE_READY)
    expected = [] if initial else [(0, ILLEGAL, "node.create.state")]
    assert refusals(project, create("a", state=state)) == expected


def test_an_id_that_exists_is_refused(project: LiveProject) -> None:
    assert refusals(project, create("root")) == [(0, INVALID, "node.node_id")]


def test_an_id_that_existed_is_refused_for_ever(project: LiveProject) -> None:
    write(project, delete("old"))
    assert refusals(project, create("old")) == [(0, INVALID, "node.node_id")]
    assert refusals(project, patch("old", waiting_on="x")) == [(0, INVALID, "node.node_id")]


def test_an_id_that_is_pending_or_deleted_while_pending_is_refused(project: LiveProject) -> None:
    project.accept(apply_batch(project, [create("a")], micros=NOW))
    assert refusals(project, create("a")) == [(0, INVALID, "node.node_id")]
    project.accept(apply_batch(project, [delete("a")], micros=NOW))
    assert refusals(project, create("a")) == [(0, INVALID, "node.node_id")]


def test_an_id_occurs_once_in_a_batch_even_if_it_is_deleted_in_between(
    project: LiveProject,
) -> None:
    assert refusals(project, create("a"), create("a")) == [(1, INVALID, "node.node_id")]
    assert refusals(project, create("a"), delete("a"), create("a")) == [
        (2, INVALID, "node.node_id")
    ]
    assert refusals(project, delete("old"), create("old")) == [(1, INVALID, "node.node_id")]


@pytest.mark.parametrize("node_id", ["a" * 128, "A.b_c~d-0", "0"])
def test_an_id_of_permitted_characters_is_taken(project: LiveProject, node_id: str) -> None:
    assert refusals(project, create(node_id)) == []


@pytest.mark.parametrize("node_id", ["a" * 129, "a b", "a/b", "é", "a\n", "a\0"])
def test_an_id_of_other_characters_or_length_is_refused(project: LiveProject, node_id: str) -> None:
    assert refusals(project, create(node_id)) == [(0, INVALID, "node.node_id")]


def test_a_node_without_id_is_refused(project: LiveProject) -> None:
    assert refusals(project, create("")) == [(0, INVALID, "node.node_id")]


@pytest.mark.parametrize("inner, expected", [("", []), ("a", []), ("b", [INVALID])])
def test_the_id_in_the_node_is_empty_or_the_same(
    project: LiveProject, inner: str, expected: list[int]
) -> None:
    mutation = create("a")
    mutation.node.create.node_id = inner
    found = refusals(project, mutation)
    assert found == [(0, reason, "node.create.node_id") for reason in expected]


@pytest.mark.parametrize("field", ["goal", "task_type"])
def test_a_node_without_a_needed_field_is_refused(project: LiveProject, field: str) -> None:
    mutation = create("a")
    mutation.node.create.ClearField(field)  # type: ignore[arg-type]
    assert refusals(project, mutation) == [(0, INVALID, f"node.create.{field}")]


@pytest.mark.parametrize(
    "output",
    [
        Node(version=1),
        Node(update_revision=1),
        *(
            Node(**{f"{name}_time": Timestamp(seconds=1)})  # type: ignore[arg-type]
            for name in ("create", "update", "start", "end")
        ),
    ],
)
def test_a_field_that_only_the_service_sets_is_refused(project: LiveProject, output: Node) -> None:
    mutation = create("a")
    mutation.node.create.MergeFrom(output)
    (field,) = (field.name for field, _ in output.ListFields())
    assert refusals(project, mutation) == [(0, INVALID, f"node.create.{field}")]


# Edges


def test_a_parent_and_dependencies_may_be_of_the_project_or_the_same_batch(
    project: LiveProject,
) -> None:
    write(
        project,
        create("b", "a", 2, depends_on=["c", "old"]),
        create("c", "a", 2),
        create("a", "root", 1),
    )
    assert node(project, "b").parent_node_id == "a"
    assert list(node(project, "b").depends_on) == ["c", "old"]


def test_a_pending_parent_counts(project: LiveProject) -> None:
    project.accept(apply_batch(project, [create("a", "root")], micros=NOW))
    assert refusals(project, create("b", "a", 2, depends_on=["a"])) == []


@pytest.mark.parametrize(
    "mutation, field",
    [
        (create("a", "none"), "parent_node_id"),
        (create("a", "a", 1), "parent_node_id"),
        (create("a", "root", 0), "layer"),
        (create("a", "root", 2), "layer"),
        (create("a", "", 1), "layer"),
        (create("a", depends_on=["none"]), "depends_on"),
        (create("a", depends_on=["a"]), "depends_on"),
        (create("a", depends_on=["old", "old"]), "depends_on"),
        (create("a", depends_on=[""]), "depends_on"),
    ],
)
def test_an_edge_that_does_not_fit_is_refused_with_its_field(
    project: LiveProject, mutation: Mutation, field: str
) -> None:
    assert refusals(project, mutation) == [(0, INVALID, f"node.create.{field}")]


def test_a_deleted_node_is_no_parent_and_no_dependency(project: LiveProject) -> None:
    write(project, delete("old"))
    assert refusals(project, create("a", "old")) == [(0, INVALID, "node.create.parent_node_id")]
    assert refusals(project, create("a", depends_on=["old"])) == [
        (0, INVALID, "node.create.depends_on")
    ]
    with pytest.raises(BatchRejected, match="was deleted"):
        apply_batch(project, [create("a", depends_on=["old"])], micros=NOW)


def test_a_node_deleted_in_the_same_batch_is_no_parent(project: LiveProject) -> None:
    assert refusals(project, delete("old"), create("a", "old")) == [
        (1, INVALID, "node.create.parent_node_id")
    ]


def test_every_node_on_a_cycle_is_named(project: LiveProject) -> None:
    found = refusals(
        project,
        create("free"),
        create("a", depends_on=["b"]),
        create("b", depends_on=["c", "free"]),
        create("c", depends_on=["a"]),
    )
    assert found == [(index, INVALID, "node.create.depends_on") for index in (1, 2, 3)]


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=3, unique=True), min_size=1, max_size=8).filter(
        lambda edges: all(other < len(edges) for found in edges for other in found)
    )
)
def test_a_batch_is_accepted_if_and_only_if_its_dependencies_have_an_order(
    edges: list[list[int]],
) -> None:
    mutations = [
        create(f"n{at}", depends_on=[f"n{other}" for other in found])
        for at, found in enumerate(edges)
    ]
    arrows = [(at, other) for at, found in enumerate(edges) for other in found]
    graph: nx.DiGraph[int] = nx.DiGraph(arrows)
    acyclic = nx.is_directed_acyclic_graph(graph)
    assert (refusals(live_project(), *mutations) == []) == acyclic


@pytest.mark.parametrize(
    "change",
    [
        lambda request: setattr(request, "parent_node_id", "root"),
        lambda request: setattr(request, "layer", 1),
        lambda request: request.depends_on.append("root"),
    ],
)
def test_a_second_create_cannot_change_the_edges_of_a_node(
    project: LiveProject, change: Callable[[Node], None]
) -> None:
    request = Node(goal="other work", task_type=TaskType.TASK_TYPE_THINK)
    change(request)
    mutation = Mutation(node=NodeMutation(node_id="old", create=request))
    assert refusals(project, mutation) == [(0, INVALID, "node.node_id")]


def test_a_project_has_a_greatest_number_of_nodes(project: LiveProject) -> None:
    apply_batch(project, [create("a"), create("b")], micros=NOW, max_nodes=4)
    with pytest.raises(BatchRejected) as caught:
        apply_batch(project, [create("a"), create("b"), create("c")], micros=NOW, max_nodes=4)
    assert [(v.index, v.field) for v in caught.value.violations] == [(0, "node.create")]


def test_deleted_nodes_count_among_the_nodes_of_a_project(project: LiveProject) -> None:
    """Their ids are kept for ever, so that none is used again (SEM 9)."""
    write(project, create("a"), create("b"))
    write(project, delete("a"))
    applied = apply_batch(project, [delete("b"), create("c")], micros=NOW, max_nodes=5)
    with pytest.raises(BatchRejected, match="deleted ones too"):
        apply_batch(project, [create("c"), create("d")], micros=NOW, max_nodes=5)
    project.accept(applied)
    with pytest.raises(BatchRejected, match="deleted ones too"):
        apply_batch(project, [create("d")], micros=NOW, max_nodes=5)


def test_a_node_lies_no_deeper_than_the_deepest_layer() -> None:
    chain = [create("n0")]
    chain += [create(f"n{i}", f"n{i - 1}", i) for i in range(1, limits.MAX_LAYER + 1)]
    project = live_project(*chain)
    below = create("below", f"n{limits.MAX_LAYER}", limits.MAX_LAYER + 1)
    assert refusals(project, below) == [(0, INVALID, "node.create.layer")]


def test_patches_are_accepted_when_the_project_is_full(project: LiveProject) -> None:
    applied = apply_batch(project, [patch("old", waiting_on="x")], micros=NOW, max_nodes=2)
    assert applied.nodes
