"""Joined changes do what the single ones did, one after the other (S1.6)."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState
from ramify.v1.mutation_pb2 import Change, Removal
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.project_pb2 import Project, ProjectPatch, ProjectState
from ramify.v1.stage_pb2 import StageRecord
from state_svc.model.merge import Shown, join_patches, merge
from state_svc.model.patch import replay_node, replay_project

_TEXTS = st.sampled_from(["", "x", "y"])
_KEYS = st.sampled_from(["a", "b", "c"])
_CLEARED = st.lists(st.sampled_from(["waiting_on", "error", "planned_sub_task_ids"]), unique=True)


@st.composite
def _node_patches(draw: st.DrawFn) -> NodePatch:
    """Return an effect: nothing in it is both set and cleared, or both put and removed."""
    patch = NodePatch(clear_fields=draw(_CLEARED))
    if draw(st.booleans()):
        patch.state = draw(st.sampled_from(NodeState.values()[1:]))
    if "waiting_on" not in patch.clear_fields and draw(st.booleans()):
        patch.waiting_on = draw(_TEXTS)
    if "error" not in patch.clear_fields and draw(st.booleans()):
        patch.error.message = draw(_TEXTS)
    if "planned_sub_task_ids" not in patch.clear_fields:
        patch.planned_sub_task_ids.extend(draw(st.lists(_KEYS, max_size=2)))
    patch.retry_count = draw(st.integers(0, 3))
    put = draw(st.dictionaries(_KEYS, st.integers(0, 3), max_size=2))
    for key, number in put.items():
        patch.aux_upserts[key].number_value = number
    patch.aux_removals.extend(draw(st.lists(_KEYS.filter(lambda key: key not in put), unique=True)))
    return patch


@st.composite
def _project_patches(draw: st.DrawFn) -> ProjectPatch:
    patch = ProjectPatch(state=draw(st.sampled_from(ProjectState.values()[1:])))
    put = draw(st.dictionaries(_KEYS, _TEXTS, max_size=2))
    patch.label_upserts.update(put)
    patch.label_removals.extend(
        draw(st.lists(_KEYS.filter(lambda key: key not in put), unique=True))
    )
    if draw(st.booleans()):
        patch.error.message = draw(_TEXTS)
    elif draw(st.booleans()):
        patch.clear_fields.append("error")
    return patch


@given(st.lists(_node_patches(), min_size=1, max_size=6))
def test_joined_patches_of_a_node_do_what_the_single_ones_did(patches: list[NodePatch]) -> None:
    one_by_one, at_once, joined = Node(node_id="n"), Node(node_id="n"), NodePatch()
    joined.CopyFrom(patches[0])
    for patch in patches:
        replay_node(one_by_one, patch)
    for patch in patches[1:]:
        join_patches(joined, patch)
    replay_node(at_once, joined)
    assert at_once == one_by_one


@given(st.lists(_project_patches(), min_size=1, max_size=6))
def test_joined_patches_of_a_project_do_what_the_single_ones_did(
    patches: list[ProjectPatch],
) -> None:
    one_by_one, at_once, joined = Project(), Project(), ProjectPatch()
    joined.CopyFrom(patches[0])
    for patch in patches:
        replay_project(one_by_one, patch)
    for patch in patches[1:]:
        join_patches(joined, patch)
    replay_project(at_once, joined)
    assert at_once == one_by_one


def _shown(revision: int, *, entered: bool = False, version: int = 0, **node: object) -> Shown:
    change = Change(revision=revision)
    change.node.node_id = "n"
    change.node.version = version or revision
    change.node.previous_state = NodeState.NODE_STATE_PENDING
    for name, value in node.items():
        if name == "removal":
            change.node.removal = value  # type: ignore[assignment]
        else:
            getattr(change.node, name).CopyFrom(value)
    return Shown(change, entered)


def test_a_merged_change_stands_at_the_place_of_the_last_one() -> None:
    (merged,) = merge(
        [
            _shown(3, patch=NodePatch(waiting_on="x")),
            _shown(5, patch=NodePatch(retry_count=2)),
        ]
    )
    assert (merged.revision, merged.node.version) == (5, 5)
    assert (merged.node.patch.waiting_on, merged.node.patch.retry_count) == ("x", 2)
    assert merged.node.previous_state == NodeState.NODE_STATE_PENDING


@pytest.mark.parametrize(
    "first, last",
    [
        ("node", "patch"),
        ("node", "removal"),
        ("patch", "node"),
        ("patch", "patch"),
        ("patch", "removal"),
        ("removal", "node"),
    ],
)
def test_a_merged_change_tells_what_was_before_the_first_one(first: str, last: str) -> None:
    effects = {
        "node": _shown(3, node=Node()),
        "patch": _shown(3, patch=NodePatch(waiting_on="x")),
        "removal": _shown(3, removal=Removal.REMOVAL_LEFT),
    }
    run = [copy.deepcopy(effects[name]) for name in (first, last)]
    states = (NodeState.NODE_STATE_READY, NodeState.NODE_STATE_RUNNING)
    for item, state, agent in zip(run, states, ("a", "b"), strict=True):
        item.change.node.previous_state = state
        item.change.node.previous_agent_name = agent
    (merged,) = merge(run)
    assert merged.node.previous_state == NodeState.NODE_STATE_READY
    assert merged.node.previous_agent_name == "a"


def test_a_merged_change_of_the_project_tells_what_was_before_the_first_one() -> None:
    run = [Change(revision=3), Change(revision=4)]
    states = (ProjectState.PROJECT_STATE_RUNNING, ProjectState.PROJECT_STATE_PAUSING)
    for change, state in zip(run, states, strict=True):
        change.project.patch.root_node_id = "n"
        change.project.previous_state = state
    (merged,) = merge([Shown(change, False) for change in run])
    assert merged.project.previous_state == ProjectState.PROJECT_STATE_RUNNING


def test_what_came_is_sent_whole_with_all_that_followed() -> None:
    (merged,) = merge(
        [
            _shown(3, entered=True, node=Node(node_id="n", goal="g")),
            _shown(4, patch=NodePatch(waiting_on="x")),
        ]
    )
    assert merged.node.node == Node(node_id="n", goal="g", waiting_on="x")


def test_what_came_and_went_is_left_out_and_what_went_and_came_is_whole() -> None:
    came = _shown(3, entered=True, node=Node(node_id="n"))
    gone = _shown(4, removal=Removal.REMOVAL_LEFT)
    again = _shown(5, entered=True, node=Node(node_id="n", goal="back"))
    assert merge([came, gone]) == []
    assert merge([gone])[0].node.removal == Removal.REMOVAL_LEFT
    (merged,) = merge([gone, again])
    assert merged.node.node.goal == "back"
    (merged,) = merge([came, gone, again])
    assert (merged.revision, merged.node.WhichOneof("effect")) == (5, "node")


def test_commands_join_and_stage_records_never_do() -> None:
    given_, done = Change(revision=2), Change(revision=3)
    given_.command.command_id = done.command.command_id = "c"
    given_.command.command.CopyFrom(Command(command_id="c", actor="me"))
    done.command.patch.CopyFrom(CommandPatch(state=CommandState.COMMAND_STATE_APPLIED))
    stages = [Change(revision=4, index=index) for index in range(2)]
    for stage in stages:
        stage.stage.stage.CopyFrom(StageRecord(node_id="n"))
    merged = merge([Shown(given_, True), Shown(done, False), *[Shown(s, True) for s in stages]])
    assert [change.revision for change in merged] == [3, 4, 4]
    assert merged[0].command.command.state == CommandState.COMMAND_STATE_APPLIED
