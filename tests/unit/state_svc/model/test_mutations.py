"""What a batch does to a project: all of it in order, or nothing and every reason (SEM 4 to 8)."""

from __future__ import annotations

import pytest

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState, CommandType
from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.mutation_pb2 import (
    CommandMutation,
    Mutation,
    NodeMutation,
    ProjectMutation,
    Removal,
)
from ramify.v1.node_pb2 import ErrorClass, Node, NodeError, NodePatch, NodeState, TaskType
from ramify.v1.payload_pb2 import Payload
from ramify.v1.project_pb2 import Lease, ProjectPatch, ProjectState
from state_svc.errors import BatchRejected
from state_svc.model.apply import apply_batch
from state_svc.model.project import LiveProject
from tests.support.live import CONFLICT, ILLEGAL, INVALID, NOW, live_project, node, refusals, write
from tests.support.mutations import (
    CANCELLED,
    DONE,
    FAILED,
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
    return live_project(create("root"), create("leaf", "root"))


def _outcome(
    command_id: str, state: CommandState.ValueType, message: str | None = None
) -> Mutation:
    return Mutation(
        command=CommandMutation(
            command_id=command_id, patch=CommandPatch(state=state, message=message)
        )
    )


# Effects (SEM 6)


def test_a_batch_that_changes_nothing_is_a_revision_all_the_same(project: LiveProject) -> None:
    applied = write(project, patch("root", waiting_on=""), patch("root", retry_count=0))
    assert (applied.revision, applied.changes()) == (3, [])
    assert project.view.revision == 3
    assert node(project, "root").version == 1
    assert node(project, "root").update_revision == 2


def test_a_version_grows_by_one_for_each_mutation_that_changes_the_node(
    project: LiveProject,
) -> None:
    write(
        project,
        patch("root", state=READY),
        patch("root", state=READY),
        patch("root", agent_name="a", waiting_on="b"),
        patch("leaf", agent_name="a"),
    )
    assert (node(project, "root").version, node(project, "leaf").version) == (3, 2)


def test_a_change_says_its_revision_and_the_place_of_its_mutation(project: LiveProject) -> None:
    applied = write(
        project,
        patch("root", state=READY),
        patch("root", state=READY),
        patch("leaf", state=READY),
        change_project(root_node_id="root"),
        order_cancel("c"),
    )
    assert [(c.revision, c.index, c.WhichOneof("entity")) for c in applied.changes()] == [
        (3, 0, "node"),
        (3, 2, "node"),
        (3, 3, "project"),
        (3, 4, "command"),
    ]


@pytest.mark.parametrize("result", [False, True])  # with a result the usual short way is not taken
def test_a_change_holds_only_what_changed_and_what_watchers_filter_by(
    project: LiveProject, result: bool
) -> None:
    write(project, patch("root", state=READY, agent_name="first", waiting_on="x"))
    request = NodePatch(state=RUNNING, agent_name="second", waiting_on="x", attempt=1)
    if result:
        request.result.text = "text"
    mutation = Mutation(node=NodeMutation(node_id="root", patch=request))
    (change,) = write(project, mutation, micros=NOW + 3).changes()
    assert change.node.version == 3
    assert change.node.previous_state == READY
    assert change.node.previous_agent_name == "first"
    changed = change.node.patch
    assert changed.start_time.ToMicroseconds() == NOW + 3
    expected = NodePatch(state=RUNNING, agent_name="second", attempt=1)
    if result:
        expected.result.text = "text"
    changed.ClearField("start_time")
    assert changed == expected


def test_a_body_without_change_of_a_message_or_list_is_no_change(project: LiveProject) -> None:
    full = patch(
        "root",
        result=Payload(content_type="text/plain", text="x"),
        error=NodeError(error_class=ErrorClass.ERROR_CLASS_TIMEOUT, message="late"),
        planned_sub_task_ids=["leaf"],
        usage={"agent_calls": 1},
        aux_upserts={"k": {"number_value": 1}},
    )
    write(project, full)
    assert write(project, full).changes() == []
    assert node(project, "root").version == 2


def test_an_empty_message_that_was_not_there_is_a_change(project: LiveProject) -> None:
    write(project, patch("root", result=Payload()))
    assert node(project, "root").HasField("result")
    assert node(project, "root").version == 2


def test_attributes_are_upserted_and_removed_one_by_one(project: LiveProject) -> None:
    first = {"keep": {"number_value": 1}, "change": {"number_value": 1}, "go": {"bool_value": True}}
    write(project, patch("root", aux_upserts=first))
    applied = write(
        project,
        patch(
            "root",
            aux_upserts={"keep": {"number_value": 1}, "change": {"string_value": "s"}},
            aux_removals=["go", "unknown"],
        ),
    )
    shown = node(project, "root").aux_data
    assert {key: value.WhichOneof("kind") for key, value in shown.items()} == {
        "keep": "number_value",
        "change": "string_value",
    }
    changed = applied.changes()[0].node.patch
    assert list(changed.aux_upserts) == ["change"]
    assert list(changed.aux_removals) == ["go"]


def test_an_attribute_may_be_named_twice_for_removal(project: LiveProject) -> None:
    write(project, patch("root", aux_upserts={"k": {"bool_value": True}}))
    applied = write(project, patch("root", aux_removals=["k", "k"]))
    assert list(applied.changes()[0].node.patch.aux_removals) == ["k"]
    assert not node(project, "root").aux_data


def test_a_field_is_cleared_by_its_name(project: LiveProject) -> None:
    write(project, patch("root", result=Payload(text="x"), waiting_on="y"))
    applied = write(project, patch("root", clear_fields=["result", "error", "waiting_on"]))
    assert list(applied.changes()[0].node.patch.clear_fields) == ["result", "waiting_on"]
    assert not node(project, "root").HasField("result")
    assert node(project, "root").waiting_on == ""
    assert write(project, patch("root", clear_fields=["result"])).changes() == []


@pytest.mark.parametrize("name", ["goal", "state", "attempt", "start_time", "node_id", "", "aux"])
def test_a_field_that_cannot_be_cleared_is_refused(project: LiveProject, name: str) -> None:
    assert refusals(project, patch("root", clear_fields=[name])) == [
        (0, INVALID, "node.patch.clear_fields")
    ]


def test_a_field_that_is_set_and_cleared_is_refused(project: LiveProject) -> None:
    for mutation in (
        patch("root", waiting_on="", clear_fields=["waiting_on"]),
        patch("root", planned_sub_task_ids=["a"], clear_fields=["planned_sub_task_ids"]),
    ):
        assert refusals(project, mutation) == [(0, INVALID, "node.patch.clear_fields")]


def test_stamps_are_not_taken_from_a_producer(project: LiveProject) -> None:
    found = refusals(
        project, patch("root", start_time={"seconds": 1}), patch("root", end_time={"seconds": 1})
    )
    assert found == [(0, INVALID, "node.patch.start_time"), (1, INVALID, "node.patch.end_time")]


@pytest.mark.parametrize(
    "unknown",
    [
        b"\x81\x07" + b"\xff" * 8,  # fixed64
        b"\x85\x07" + b"\xff" * 4,  # fixed32
        b"\x88\x07" + b"\xff" * 9 + b"\x01",  # varint
        b"\x82\x80\x01\x02\xff\xff",  # bytes, with a tag of three bytes
        b"\x31" + b"\xff" * 8,
    ],
)
def test_a_field_of_a_newer_contract_is_passed_over(project: LiveProject, unknown: bytes) -> None:
    mutation = patch("root", state=READY)
    mutation.node.patch.MergeFromString(unknown)
    write(project, mutation)
    assert node(project, "root").state == READY


def test_commit_time_never_goes_back(project: LiveProject) -> None:
    write(project, patch("root", state=READY), micros=NOW + 10)
    applied = write(project, patch("root", state=RUNNING), micros=NOW - 10)
    assert applied.micros == NOW + 10
    assert applied.info.commit_time.ToMicroseconds() == NOW + 10
    assert node(project, "root").start_time.ToMicroseconds() == NOW + 10


def test_who_wrote_is_part_of_the_revision(project: LiveProject) -> None:
    applied = apply_batch(
        project, [patch("root", state=READY)], micros=NOW, actor="me", traceparent="00-1-2-00"
    )
    assert (applied.info.actor, applied.info.traceparent) == ("me", "00-1-2-00")


# Order in a batch (SEM 8)


def test_mutations_are_checked_against_the_result_of_the_ones_before(project: LiveProject) -> None:
    write(
        project,
        patch("root", state=READY),
        patch("root", state=RUNNING, attempt=1),
        patch("root", state=READY, attempt=2),
        patch("root", state=RUNNING),
        create("new", "root", state=READY),
        patch("new", state=RUNNING, expected_version=1, expected_state=READY),
    )
    assert (node(project, "root").state, node(project, "root").attempt) == (RUNNING, 2)
    assert node(project, "root").version == 5
    assert (node(project, "new").state, node(project, "new").version) == (RUNNING, 2)


def test_the_same_moves_in_another_order_are_illegal(project: LiveProject) -> None:
    found = refusals(
        project, patch("root", state=DONE), patch("root", state=RUNNING), patch("root", state=READY)
    )
    assert found == [(0, ILLEGAL, "node.patch.state"), (2, ILLEGAL, "node.patch.state")]


# Compare and set (SEM 7)


def test_an_expected_version_is_compared_with_what_is_pending(project: LiveProject) -> None:
    project.accept(apply_batch(project, [patch("root", state=READY)], micros=NOW))
    assert node(project, "root").version == 2
    assert project.view.nodes["root"].version == 1
    assert refusals(project, patch("root", waiting_on="x", expected_version=2)) == []
    assert refusals(project, patch("root", waiting_on="x", expected_version=1)) == [
        (0, CONFLICT, "node.expected_version")
    ]
    assert refusals(project, patch("root", waiting_on="x", expected_version=0)) == [
        (0, CONFLICT, "node.expected_version")
    ]


def test_an_expected_state_is_compared_with_what_is_pending(project: LiveProject) -> None:
    project.accept(apply_batch(project, [patch("root", state=READY)], micros=NOW))
    assert refusals(project, patch("root", state=RUNNING, expected_state=READY)) == []
    assert refusals(project, patch("root", state=RUNNING, expected_state=RUNNING)) == [
        (0, CONFLICT, "node.expected_state")
    ]


def test_a_delete_may_have_expectations_too(project: LiveProject) -> None:
    mutation = delete("leaf")
    mutation.node.expected_version = 2
    assert refusals(project, mutation) == [(0, CONFLICT, "node.expected_version")]
    mutation.node.expected_version = 1
    assert refusals(project, mutation) == []


def test_a_node_that_does_not_exist_has_no_version_and_no_state_to_expect(
    project: LiveProject,
) -> None:
    mutation = create("new")
    mutation.node.expected_version = 1
    assert refusals(project, mutation) == [(0, CONFLICT, "node.expected_version")]
    mutation.node.expected_version = 0
    assert refusals(project, mutation) == [], "0: it must not exist, and it does not"
    mutation.node.expected_state = READY
    assert refusals(project, mutation) == [(0, CONFLICT, "node.expected_state")]


def test_an_expectation_that_fails_changes_nothing_even_without_a_change(
    project: LiveProject,
) -> None:
    assert refusals(project, patch("root", expected_version=9)) == [
        (0, CONFLICT, "node.expected_version")
    ]


def test_a_project_state_may_be_expected(project: LiveProject) -> None:
    mutation = change_project(state=ProjectState.PROJECT_STATE_RUNNING)
    mutation.project.expected_state = ProjectState.PROJECT_STATE_PAUSED
    assert refusals(project, mutation) == [(0, CONFLICT, "project.expected_state")]
    mutation.project.expected_state = ProjectState.PROJECT_STATE_PENDING
    assert refusals(project, mutation) == []
    assert refusals(project, change_project(label_upserts={"k": "v"}), mutation) == []


# Rejection (SEM 4)


def test_every_bad_mutation_is_listed_in_order_and_nothing_changes(project: LiveProject) -> None:
    before = (project.revision, node(project, "root"), len(list(project.all_nodes())))
    found = refusals(
        project,
        create("a", "none"),
        patch("root", state=READY),
        patch("root", state=DONE),
        patch("none", waiting_on="x"),
        patch("leaf", agent_name="x" * 256),
        patch("leaf", waiting_on="x", expected_version=7),
        create("b", depends_on=["none"]),
    )
    assert found == [
        (0, INVALID, "node.create.parent_node_id"),
        (2, ILLEGAL, "node.patch.state"),
        (3, INVALID, "node.node_id"),
        (4, INVALID, "node.patch.agent_name"),
        (5, CONFLICT, "node.expected_version"),
        (6, INVALID, "node.create.depends_on"),
    ]
    assert (project.revision, node(project, "root"), len(list(project.all_nodes()))) == before
    assert not project.has_pending


def test_at_most_100_bad_mutations_are_listed_and_they_are_the_first(project: LiveProject) -> None:
    found = refusals(project, *(patch(f"none-{i}", waiting_on="x") for i in range(250)))
    assert [index for index, _, _ in found] == list(range(100))


def test_the_reason_of_a_rejection_is_that_of_its_first_violation(project: LiveProject) -> None:
    with pytest.raises(BatchRejected) as caught:
        apply_batch(project, [patch("root", state=DONE), patch("none", waiting_on="x")], micros=NOW)
    assert caught.value.reason == ErrorReason.ERROR_REASON_ILLEGAL_TRANSITION
    assert "and 1 more" in caught.value.message


@pytest.mark.parametrize(
    "mutation, field",
    [
        (Mutation(), "target"),
        (Mutation(node=NodeMutation()), "node.node_id"),
        (Mutation(node=NodeMutation(node_id="root")), "node.change"),
        (Mutation(node=NodeMutation(node_id="none")), "node.node_id"),
        (delete("none"), "node.node_id"),
        (Mutation(command=CommandMutation(command_id="c")), "command.change"),
        (_outcome("none", CommandState.COMMAND_STATE_APPLIED), "command.command_id"),
    ],
)
def test_a_mutation_without_a_target_or_a_change_is_refused(
    project: LiveProject, mutation: Mutation, field: str
) -> None:
    assert refusals(project, mutation) == [(0, INVALID, field)]


def test_an_empty_patch_is_a_change_of_nothing(project: LiveProject) -> None:
    assert write(project, patch("root")).changes() == []
    assert write(project, Mutation(project=ProjectMutation())).changes() == []


# Deletion (SEM 9)


def test_a_leaf_can_be_deleted_and_is_gone(project: LiveProject) -> None:
    write(project, patch("leaf", state=READY, agent_name="me"))
    (change,) = write(project, delete("leaf")).changes()
    assert change.node.removal == Removal.REMOVAL_DELETED
    assert (change.node.version, change.node.previous_state) == (3, READY)
    assert change.node.previous_agent_name == "me"
    assert project.node("leaf") is None
    assert project.view.deleted == {"leaf"}


def test_a_parent_is_not_deleted(project: LiveProject) -> None:
    assert refusals(project, delete("root")) == [(0, INVALID, "node.delete")]
    assert refusals(project, create("new", "leaf", 2), delete("leaf")) == [
        (1, INVALID, "node.delete")
    ]


def test_what_others_depend_on_is_not_deleted(project: LiveProject) -> None:
    write(project, create("other", depends_on=["leaf"]))
    assert refusals(project, delete("leaf")) == [(0, INVALID, "node.delete")]
    write(project, delete("other"), delete("leaf"), delete("root"))
    assert len(list(project.all_nodes())) == 0


def test_a_node_may_be_created_and_deleted_in_one_batch(project: LiveProject) -> None:
    applied = write(project, create("brief"), delete("brief"))
    assert [c.node.WhichOneof("effect") for c in applied.changes()] == ["node", "removal"]
    assert project.node("brief") is None
    assert project.ever_existed("brief")


# The project itself


def test_a_project_is_patched_field_by_field(project: LiveProject) -> None:
    error = NodeError(error_class=ErrorClass.ERROR_CLASS_LIMIT, message="too many steps")
    applied = write(
        project,
        change_project(
            state=ProjectState.PROJECT_STATE_RUNNING,
            root_node_id="root",
            error=error,
            label_upserts={"k": "v", "l": "w"},
        ),
        micros=NOW + 1,
    )
    entity = project.entity
    assert (entity.root_node_id, entity.error, dict(entity.labels)) == (
        "root",
        error,
        {"k": "v", "l": "w"},
    )
    assert (entity.version, entity.update_time.ToMicroseconds()) == (2, NOW + 1)
    (change,) = applied.changes()
    assert change.project.previous_state == ProjectState.PROJECT_STATE_PENDING

    second = change_project(
        root_node_id="root",
        label_upserts={"k": "v"},
        label_removals=["l", "unknown"],
        clear_fields=["error"],
    )
    (change,) = write(project, second).changes()
    assert change.project.patch == ProjectPatch(label_removals=["l"], clear_fields=["error"])
    assert not project.entity.HasField("error")
    assert write(project, second).changes() == []
    assert project.entity.version == 3


@pytest.mark.parametrize(
    "mutation, field",
    [
        (change_project(lease=Lease(holder="me", lease_epoch=1)), "lease"),
        (change_project(start_time={"seconds": 1}), "start_time"),
        (change_project(end_time={"seconds": 1}), "end_time"),
        (change_project(root_node_id="not an id"), "root_node_id"),
        (change_project(clear_fields=["goal"]), "clear_fields"),
        (change_project(clear_fields=["error"], error=NodeError()), "clear_fields"),
        (change_project(label_upserts={"": "v"}), "label_upserts"),
        (change_project(state=ProjectState.PROJECT_STATE_UNSPECIFIED), "state"),
    ],
)
def test_a_bad_patch_of_the_project_is_refused(
    project: LiveProject, mutation: Mutation, field: str
) -> None:
    assert refusals(project, mutation) == [(0, INVALID, f"project.patch.{field}")]


def test_a_refused_patch_of_the_project_leaves_it_as_it_was(project: LiveProject) -> None:
    before = project.entity.SerializeToString(deterministic=True)
    bad = change_project(label_upserts={"k": "v"}, state=ProjectState.PROJECT_STATE_COMPLETED)
    assert refusals(project, bad) == [(0, ILLEGAL, "project.patch.state")]
    assert project.entity.SerializeToString(deterministic=True) == before


# Commands


def test_a_command_is_open_until_it_has_one_outcome(project: LiveProject) -> None:
    write(project, order_cancel("c"), micros=NOW + 4)
    command = project.command("c")
    assert command is not None
    assert (command.state, command.version) == (CommandState.COMMAND_STATE_OPEN, 1)
    assert command.create_time.ToMicroseconds() == NOW + 4
    applied = CommandState.COMMAND_STATE_APPLIED
    (change,) = write(project, _outcome("c", applied, "done")).changes()
    assert (change.command.version, change.command.patch.message) == (2, "done")
    assert write(project, _outcome("c", applied)).changes() == [], "the same outcome again"
    assert refusals(project, _outcome("c", CommandState.COMMAND_STATE_REFUSED)) == [
        (0, ILLEGAL, "command.patch.state")
    ]


def test_a_change_of_a_command_holds_only_what_changed(project: LiveProject) -> None:
    applied = CommandState.COMMAND_STATE_APPLIED
    write(project, order_cancel("c"), _outcome("c", applied, "done"))
    (change,) = write(project, _outcome("c", applied, "done, twice")).changes()
    assert change.command.patch == CommandPatch(message="done, twice")
    assert write(project, _outcome("c", applied, "done, twice")).changes() == []


def test_a_command_and_its_outcome_may_share_a_batch(project: LiveProject) -> None:
    write(project, order_cancel("c"), _outcome("c", CommandState.COMMAND_STATE_REFUSED, "no"))
    command = project.command("c")
    assert command is not None
    assert (command.state, command.message, command.version) == (
        CommandState.COMMAND_STATE_REFUSED,
        "no",
        2,
    )


def test_a_pending_command_counts(project: LiveProject) -> None:
    project.accept(apply_batch(project, [order_cancel("c")], micros=NOW))
    assert refusals(project, order_cancel("c")) == [(0, INVALID, "command.command_id")]
    assert refusals(project, _outcome("c", CommandState.COMMAND_STATE_APPLIED)) == []


def test_a_command_is_created_open_whatever_it_says(project: LiveProject) -> None:
    create_applied = Command(
        command_id="other",
        type=CommandType.COMMAND_TYPE_CANCEL_PROJECT,
        state=CommandState.COMMAND_STATE_APPLIED,
        version=9,
    )
    write(project, Mutation(command=CommandMutation(command_id="c", create=create_applied)))
    command = project.command("c")
    assert command is not None
    assert (command.command_id, command.state, command.version) == (
        "c",
        CommandState.COMMAND_STATE_OPEN,
        1,
    )


@pytest.mark.parametrize("state", [0, 1, 77])
def test_an_outcome_that_is_none_is_refused(project: LiveProject, state: int) -> None:
    write(project, order_cancel("c"))
    mutation = _outcome("c", CommandState.COMMAND_STATE_APPLIED)
    mutation.command.patch.state = state  # type: ignore[assignment]
    expected = [] if state == CommandState.COMMAND_STATE_OPEN else [INVALID]
    assert refusals(project, mutation) == [(0, r, "command.patch.state") for r in expected]


@pytest.mark.parametrize("command_id", ["", "a b", "x" * 129])
def test_a_command_has_an_id(project: LiveProject, command_id: str) -> None:
    assert refusals(project, order_cancel(command_id)) == [(0, INVALID, "command.command_id")]


def test_a_command_has_a_type(project: LiveProject) -> None:
    mutation = Mutation(command=CommandMutation(command_id="c", create=Command()))
    assert refusals(project, mutation) == [(0, INVALID, "command.create.type")]


def test_a_whole_life_in_one_batch_is_one_revision(project: LiveProject) -> None:
    applied = write(
        project,
        create("a", state=READY),
        patch("a", state=RUNNING, attempt=1),
        patch("a", state=FAILED, error=NodeError(error_class=ErrorClass.ERROR_CLASS_TIMEOUT)),
        patch("a", state=READY, attempt=2, clear_fields=["error"]),
        patch("a", state=CANCELLED),
    )
    assert applied.mutation_count == 5
    assert len(applied.images) == len(applied.changes()) == 5
    states = [None if after is None else after.state for _, after in applied.images]
    assert states == [READY, RUNNING, FAILED, READY, CANCELLED]
    assert [before is None for before, _ in applied.images] == [True, False, False, False, False]
    shown = node(project, "a")
    expected = Node(
        node_id="a",
        goal="goal of a",
        task_type=TaskType.TASK_TYPE_SEARCH,
        state=NodeState.NODE_STATE_CANCELLED,
        version=5,
        attempt=2,
        update_revision=3,
        create_time=shown.create_time,
        update_time=shown.update_time,
        start_time=shown.start_time,
        end_time=shown.end_time,
    )
    assert shown == expected
