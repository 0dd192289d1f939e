"""What is accepted but not durable lies over what is, and can be taken away again (SEM 7)."""

from __future__ import annotations

import pytest

from ramify.v1.mutation_pb2 import Mutation
from ramify.v1.node_pb2 import NodeState
from state_svc.model.apply import apply_batch
from state_svc.model.entity import change_lease
from state_svc.model.producer import Verdict, judge
from state_svc.model.project import NO_ORIGIN, Applied, LiveProject, Origin
from tests.support.live import NOW, live_project, node, write
from tests.support.mutations import (
    READY,
    RUNNING,
    change_project,
    create,
    delete,
    order_cancel,
    patch,
)


@pytest.fixture
def project() -> LiveProject:
    return live_project(create("a"), create("b"))


def _accept(project: LiveProject, *mutations: Mutation, origin: Origin = NO_ORIGIN) -> Applied:
    applied = apply_batch(project, mutations, micros=NOW, origin=origin)
    project.accept(applied)
    return applied


def _counts(project: LiveProject) -> dict[str, int]:
    return dict(project.view.to_project().node_counts)


def test_reads_count_what_is_pending_and_the_view_does_not(project: LiveProject) -> None:
    _accept(
        project,
        patch("a", state=READY),
        create("c"),
        delete("b"),
        change_project(root_node_id="a"),
        order_cancel("x"),
    )
    assert project.has_pending
    assert (project.revision, project.view.revision) == (3, 2)
    assert node(project, "a").state == READY
    assert project.node("b") is None
    assert [n.spec.node_id for n in project.all_nodes()] == ["a", "c"]
    assert len(list(project.all_nodes())) == 2
    assert project.entity.root_node_id == "a"
    assert project.command("x") is not None
    assert project.ever_existed("c")
    assert list(project.view.nodes) == ["a", "b"]
    assert project.view.nodes["a"].state == NodeState.NODE_STATE_PENDING
    assert project.view.entity.root_node_id == ""
    assert project.view.commands == {}


def test_a_durable_batch_moves_into_the_view_and_later_ones_stay_on_top(
    project: LiveProject,
) -> None:
    first = _accept(
        project, patch("a", state=READY), patch("b", state=READY), order_cancel("x"), create("c")
    )
    second = _accept(
        project, patch("a", state=RUNNING), change_project(root_node_id="a"), delete("c")
    )
    project.promote(first)
    assert project.has_pending
    assert project.view.revision == 3
    assert project.view.nodes["a"].state == READY
    assert node(project, "a").state == RUNNING
    assert node(project, "b").state == READY
    assert project.node("c") is None
    assert project.entity.root_node_id == "a"
    assert project.view.entity.root_node_id == ""
    assert list(project.view.commands) == ["x"]
    project.promote(second)
    assert project.revision == project.view.revision
    assert project.view.nodes["a"].state == RUNNING
    assert "c" not in project.view.nodes
    assert project.view.deleted == {"c"}
    assert project.view.entity.root_node_id == "a"


def test_after_a_drop_everything_is_as_the_store_has_it(project: LiveProject) -> None:
    before = [n.to_node() for n in project.all_nodes()]
    durable = _accept(project, patch("b", state=READY))
    _accept(project, patch("a", state=READY), create("c"), delete("b"), order_cancel("x"))
    _accept(project, change_project(root_node_id="a"))
    project.promote(durable)
    project.drop_pending()
    assert not project.has_pending
    assert project.revision == 3
    assert node(project, "a") == before[0]
    assert node(project, "b").state == READY
    assert project.entity.root_node_id == ""
    assert project.command("x") is None
    assert not project.ever_existed("c"), "an id that never became durable is free"
    again = write(project, create("c"))
    assert again.revision == 4


def test_after_a_drop_a_lost_time_is_no_longer_the_latest(project: LiveProject) -> None:
    project.accept(apply_batch(project, [patch("a", state=READY)], micros=NOW + 1_000))
    project.drop_pending()
    assert project.micros == NOW


def test_a_dropped_batch_consumes_no_sequence(project: LiveProject) -> None:
    write(project, patch("a", state=READY), origin=Origin("p", 4, 1))
    _accept(project, patch("a", state=RUNNING), origin=Origin("p", 4, 2))
    _accept(project, create("c"), origin=Origin("p", 4, 3))
    assert judge(project.producers["p"], 4, 3) is Verdict.PENDING
    project.drop_pending()
    assert judge(project.producers["p"], 4, 2) is Verdict.ACCEPT
    assert judge(project.producers["p"], 4, 1) is Verdict.REPEAT
    assert project.producers["p"].revision_of(1) == 3


def test_a_new_epoch_replaces_the_position_of_the_old_one(project: LiveProject) -> None:
    old = _accept(project, patch("a", state=READY), origin=Origin("p", 4, 1))
    new = _accept(project, patch("a", state=RUNNING), origin=Origin("p", 5, 1))
    project.promote(old)
    assert project.producers["p"].committed == 0, "the old epoch's commit is not the new one's"
    project.promote(new)
    position = project.producers["p"]
    assert (position.epoch, position.committed, position.revision_of(1)) == (5, 1, 4)


def test_counts_follow_every_move(project: LiveProject) -> None:
    assert _counts(project) == {"PENDING": 2}
    write(project, patch("a", state=READY), create("c", state=READY))
    assert _counts(project) == {"PENDING": 1, "READY": 2}
    write(project, patch("a", state=RUNNING), delete("b"))
    assert _counts(project) == {"RUNNING": 1, "READY": 1}
    write(project, create("d"), delete("d"))
    assert _counts(project) == {"RUNNING": 1, "READY": 1}


def test_a_project_is_shown_with_its_head_and_what_is_gone(project: LiveProject) -> None:
    project.view.compacted = 1
    shown = project.view.to_project()
    assert (shown.revision, shown.compacted_revision) == (2, 1)
    assert project.view.entity.revision == 0, "the entity itself is not touched"


def test_nodes_keep_the_order_of_their_creation(project: LiveProject) -> None:
    write(project, create("0"), patch("a", state=READY))
    _accept(project, create("z"), patch("b", state=READY), create("A"))
    assert [n.spec.node_id for n in project.all_nodes()] == ["a", "b", "0", "z", "A"]


def test_an_image_that_was_handed_out_never_changes(project: LiveProject) -> None:
    before = project.view.nodes["a"]
    data = bytes(before.data)
    for state in (READY, RUNNING):
        write(project, patch("a", state=state, agent_name=f"agent-{state}"))
    assert (before.data, before.version, before.state) == (data, 1, NodeState.NODE_STATE_PENDING)


def test_a_node_patched_many_times_stays_small(project: LiveProject) -> None:
    for number in range(1, 200):
        write(project, patch("a", agent_name=f"agent-{number}", retry_count=number))
    assert node(project, "a").agent_name == "agent-199"
    assert len(project.view.nodes["a"].data) < 300


def test_a_lease_is_a_revision_like_any_other(project: LiveProject) -> None:
    project.accept(change_lease(project, "holder", 7, micros=NOW - 5, actor="holder"))
    assert (project.entity.lease.holder, project.view.entity.lease.holder) == ("holder", "")
    assert project.micros == NOW, "commit time never goes back"
    project.drop_pending()
    assert project.entity.lease.lease_epoch == 0
