"""A view built from changes equals what the server holds; nothing wrong goes unnoticed."""

import pytest
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from ramify.checksum import ViewChecksum, node_hash
from ramify.errors import ViewDivergedError, WatchGapError
from ramify.v1.command_pb2 import Command, CommandPatch, CommandState
from ramify.v1.mutation_pb2 import (
    REMOVAL_DELETED,
    REMOVAL_LEFT,
    Change,
    CommandChange,
    Delta,
    NodeChange,
    ProjectChange,
)
from ramify.v1.node_pb2 import Node, NodeError, NodePatch, NodeState
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Lease, Project, ProjectPatch, ProjectState
from ramify.v1.state_service_pb2 import SnapshotChunk
from ramify.view import View
from tests.unit.clients.fake_project import (
    FakeProject,
    commit_time,
    node_created,
    node_state,
    project_state,
)


@pytest.fixture
def fake() -> FakeProject:
    """A project with a root and one child, at revision 2."""
    project = Project(project_id="p", project_uid="u", goal="a goal", labels={"team": "blue"})
    fake = FakeProject(project)
    fake.commit(ProjectChange(project=project))
    fake.commit(node_created("root"), node_created("child", "root", layer=1))
    return fake


def view_of(fake: FakeProject) -> View:
    view = View()
    for delta in fake.deltas:
        view.apply_delta(delta)
    return view


def patched(fake: FakeProject, patch: NodePatch, node_id: str = "root") -> Node:
    """Return the node after one more revision that carries this patch."""
    view = view_of(fake)
    fake.commit(NodeChange(node_id=node_id, patch=patch))
    view.apply_delta(fake.deltas[-1])
    return view.nodes[node_id]


def test_a_view_from_the_beginning_equals_a_view_from_a_snapshot(fake: FakeProject) -> None:
    fake.commit(node_state("root", NodeState.NODE_STATE_RUNNING))
    fake.commit(project_state(ProjectState.PROJECT_STATE_RUNNING))
    built, copied = view_of(fake), View()
    copied.apply_snapshot(
        SnapshotChunk(
            revision=fake.head,
            last=True,
            project=fake.project,
            nodes=fake.nodes.values(),
            checksum=fake.checksum(),
        )
    )
    assert built.revision == copied.revision == 4
    assert built.checksum == copied.checksum == fake.checksum()
    assert [node.state for node in built.nodes.values()] == [
        node.state for node in copied.nodes.values()
    ]
    assert built.project == copied.project


def test_a_patch_sets_what_it_names_and_stamps_version_revision_and_time(
    fake: FakeProject,
) -> None:
    node = patched(fake, NodePatch(output_summary="short", attempt=0))
    assert (node.output_summary, node.goal) == ("short", "goal of root")
    assert (node.version, node.update_revision) == (2, 3)
    assert node.update_time == commit_time(3)


def test_a_message_in_a_patch_replaces_the_old_one_whole(fake: FakeProject) -> None:
    patched(fake, NodePatch(result=Payload(content_type="text/plain", text="first")))
    node = patched(fake, NodePatch(result=Payload(data=b"second")))
    assert node.result == Payload(data=b"second")


def test_planned_children_are_replaced_when_given_and_kept_when_not(fake: FakeProject) -> None:
    patched(fake, NodePatch(planned_sub_task_ids=["a", "b"]))
    assert patched(fake, NodePatch(goal="other")).planned_sub_task_ids == ["a", "b"]
    assert patched(fake, NodePatch(planned_sub_task_ids=["c"])).planned_sub_task_ids == ["c"]


def test_aux_removals_come_before_upserts(fake: FakeProject) -> None:
    patched(fake, NodePatch(aux_upserts={"k": Value(number_value=1), "x": Value(bool_value=True)}))
    node = patched(
        fake,
        NodePatch(aux_removals=["k", "x", "absent"], aux_upserts={"k": Value(string_value="")}),
    )
    assert dict(node.aux_data) == {"k": Value(string_value="")}


def test_cleared_fields_are_emptied(fake: FakeProject) -> None:
    patched(fake, NodePatch(error=NodeError(message="broken"), waiting_on="dependency:x"))
    node = patched(fake, NodePatch(clear_fields=["error", "waiting_on"]))
    assert not node.HasField("error")
    assert node.waiting_on == ""


def test_project_patches_change_state_lease_and_labels(fake: FakeProject) -> None:
    fake.commit(
        ProjectChange(
            version=2,
            patch=ProjectPatch(
                state=ProjectState.PROJECT_STATE_RUNNING,
                lease=Lease(holder="o", lease_epoch=3),
                error=NodeError(message="x"),
            ),
        )
    )
    view = view_of(fake)
    fake.deltas.append(
        Delta(
            first_revision=4,
            last_revision=4,
            changes=[
                Change(
                    revision=4,
                    project=ProjectChange(
                        version=3,
                        patch=ProjectPatch(
                            label_removals=["team"],
                            label_upserts={"tier": "1"},
                            clear_fields=["error"],
                        ),
                    ),
                )
            ],
        )
    )
    view.apply_delta(fake.deltas[-1])
    assert view.project is not None
    assert view.project.state == ProjectState.PROJECT_STATE_RUNNING
    assert view.project.lease.lease_epoch == 3
    assert dict(view.project.labels) == {"tier": "1"}
    assert not view.project.HasField("error")
    assert view.project.version == 3


@pytest.mark.parametrize("removal", [REMOVAL_DELETED, REMOVAL_LEFT])
def test_removed_nodes_leave_the_view_and_its_checksum(fake: FakeProject, removal: int) -> None:
    view = view_of(fake)
    fake.commit(NodeChange(node_id="child", removal=REMOVAL_DELETED))
    fake.deltas[-1].changes[0].node.removal = removal  # type: ignore[assignment]
    view.apply_delta(fake.deltas[-1])
    assert list(view.nodes) == ["root"]
    assert list(view.children("root")) == []
    assert view.checksum == fake.checksum()


def test_commands_come_and_change(fake: FakeProject) -> None:
    view = view_of(fake)
    given = CommandChange(command_id="c", version=1, command=Command(command_id="c"))
    done = CommandPatch(state=CommandState.COMMAND_STATE_APPLIED)
    unknown = CommandChange(command_id="gone", version=2, patch=done)
    view.apply_delta(
        Delta(
            first_revision=3,
            last_revision=5,
            changes=[
                Change(revision=3, command=given),
                Change(revision=4, command=CommandChange(command_id="c", version=2, patch=done)),
                Change(revision=5, command=unknown),
            ],
        )
    )
    assert view.commands["c"].state == CommandState.COMMAND_STATE_APPLIED
    assert view.commands["c"].version == 2
    assert list(view.commands) == ["c"]


def test_revisions_without_matching_changes_advance_the_view(fake: FakeProject) -> None:
    view = view_of(fake)
    view.apply_delta(Delta(first_revision=3, last_revision=9))
    assert view.revision == 9


@pytest.mark.parametrize("first_last", [(4, 4), (2, 3), (3, 2)])
def test_a_delta_that_does_not_join_is_refused_and_changes_nothing(
    fake: FakeProject, first_last: tuple[int, int]
) -> None:
    view = view_of(fake)
    before = view.checksum
    fake.commit(node_state("root", NodeState.NODE_STATE_RUNNING))
    delta = fake.deltas[-1]
    delta.first_revision, delta.last_revision = first_last
    with pytest.raises(WatchGapError):
        view.apply_delta(delta)
    assert (view.revision, view.checksum) == (2, before)


def test_a_patch_of_an_unknown_node_is_refused(fake: FakeProject) -> None:
    with pytest.raises(WatchGapError):
        View().apply_delta(
            Delta(
                first_revision=1,
                last_revision=1,
                changes=[Change(revision=1, node=NodeChange(node_id="x", patch=NodePatch()))],
            )
        )


def test_a_bookmark_with_another_checksum_is_detected(fake: FakeProject) -> None:
    view = view_of(fake)
    view.apply_bookmark(2, fake.checksum())
    with pytest.raises(ViewDivergedError):
        view.apply_bookmark(3, fake.checksum() + 1)
    with pytest.raises(WatchGapError):
        view.apply_bookmark(1, fake.checksum())


def test_changing_the_view_leaves_the_events_alone(fake: FakeProject) -> None:
    snapshot = SnapshotChunk(revision=2, last=True, project=fake.project, nodes=fake.nodes.values())
    snapshot.checksum = fake.checksum()
    before = snapshot.SerializeToString(deterministic=True)
    view = View()
    view.apply_snapshot(snapshot)
    fake.commit(node_state("root", NodeState.NODE_STATE_RUNNING))
    view.apply_delta(fake.deltas[-1])
    assert snapshot.SerializeToString(deterministic=True) == before


def test_children_and_roots_follow_the_order_of_creation(fake: FakeProject) -> None:
    fake.commit(node_created("b", "root", layer=1), node_created("a", "root", layer=1))
    view = view_of(fake)
    assert [node.node_id for node in view.children("root")] == ["child", "b", "a"]
    assert [node.node_id for node in view.roots()] == ["root"]


def test_the_checksum_is_the_one_of_the_contract() -> None:
    # sha256(b"root\x001")[:8], computed with a shell: printf 'root\0001' | sha256sum
    assert node_hash("root", 1) == int("25b7b9a846b2a7e0", 16)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5))))
def test_a_running_checksum_equals_the_sum_over_the_present_nodes(
    steps: list[tuple[str, int]],
) -> None:
    running, present = ViewChecksum(), dict[str, int]()
    for node_id, version in steps:
        if version:
            running.set(node_id, version)
            present[node_id] = version
        else:
            running.remove(node_id)
            present.pop(node_id, None)
    assert running.value == sum(node_hash(*item) for item in present.items()) % 2**64
