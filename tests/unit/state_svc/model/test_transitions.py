"""Every pair of states is a legal move or ILLEGAL_TRANSITION, and nothing else (SEM 8, 26)."""

from __future__ import annotations

from itertools import product

import pytest

from ramify.v1.node_pb2 import Node, NodeState, TaskType
from ramify.v1.project_pb2 import ProjectState
from state_svc.model import transitions
from state_svc.model.node import live_from_message
from state_svc.model.project import LiveProject
from tests.support.live import ILLEGAL, INVALID, NOW, live_project, node, refusals, write
from tests.support.mutations import change_project, patch

_ATTEMPT = 3

#: The contract, written down a second time: whoever changes the table changes this.
_NODE_MOVES = {
    "PENDING": "READY RUNNING FAILED CANCELLED",
    "READY": "RUNNING FAILED CANCELLED",
    "RUNNING": "DONE PLAN_DONE FAILED NEEDS_REPLAN CANCELLED",
    "PLAN_DONE": "AGGREGATING FAILED NEEDS_REPLAN CANCELLED",
    "AGGREGATING": "DONE FAILED NEEDS_REPLAN CANCELLED",
    "DONE": "NEEDS_REPLAN",
    "FAILED": "READY NEEDS_REPLAN",
    "NEEDS_REPLAN": "READY RUNNING FAILED CANCELLED",
    "CANCELLED": "",
}
_WITH_NEW_ATTEMPT = {("RUNNING", "READY")}
_PROJECT_MOVES = {
    "PENDING": "RUNNING PAUSING PAUSED CANCELLING CANCELLED FAILED",
    "RUNNING": "WAITING PAUSING CANCELLING COMPLETED PARTIAL FAILED CANCELLED",
    "WAITING": "RUNNING PAUSING CANCELLING COMPLETED PARTIAL FAILED CANCELLED",
    "PAUSING": "PAUSED RUNNING CANCELLING COMPLETED PARTIAL FAILED CANCELLED",
    "PAUSED": "RUNNING CANCELLING COMPLETED PARTIAL FAILED CANCELLED",
    "CANCELLING": "CANCELLED",
    "COMPLETED": "RUNNING",
    "PARTIAL": "RUNNING",
    "FAILED": "RUNNING",
    "CANCELLED": "",
}
_NODE_PAIRS = list(product(_NODE_MOVES, repeat=2))
_PROJECT_PAIRS = list(product(_PROJECT_MOVES, repeat=2))


def _state(name: str) -> NodeState.ValueType:
    return NodeState.Value(f"NODE_STATE_{name}")


def _project_state(name: str) -> ProjectState.ValueType:
    return ProjectState.Value(f"PROJECT_STATE_{name}")


def _with_node(state: str, attempt: int = _ATTEMPT) -> LiveProject:
    project = live_project()
    message = Node(
        node_id="n",
        goal="some work",
        task_type=TaskType.TASK_TYPE_THINK,
        state=_state(state),
        attempt=attempt,
    )
    project.view.put_node("n", live_from_message(message, version=1, revision=1, micros=NOW))
    return project


def _with_state(state: str) -> LiveProject:
    project = live_project()
    project.view.entity.state = _project_state(state)
    return project


def test_the_tables_of_this_test_name_every_state() -> None:
    assert {f"NODE_STATE_{name}" for name in _NODE_MOVES} == set(NodeState.keys()[1:])
    assert {f"PROJECT_STATE_{name}" for name in _PROJECT_MOVES} == set(ProjectState.keys()[1:])


@pytest.mark.parametrize("before, after", _NODE_PAIRS)
def test_a_node_moves_only_as_the_table_says(before: str, after: str) -> None:
    project = _with_node(before)
    move = patch("n", state=_state(after))
    legal = after == before or after in _NODE_MOVES[before].split()
    if not legal:
        assert refusals(project, move) == [(0, ILLEGAL, "node.patch.state")]
        return
    write(project, move)
    assert node(project, "n").state == _state(after)
    assert node(project, "n").version == (1 if after == before else 2)


@pytest.mark.parametrize("before, after", _NODE_PAIRS)
def test_a_new_attempt_makes_no_move_legal_but_the_ones_that_need_it(
    before: str, after: str
) -> None:
    project = _with_node(before)
    move = patch("n", state=_state(after), attempt=_ATTEMPT + 1)
    moves = {before, *_NODE_MOVES[before].split()}
    if after not in moves and (before, after) not in _WITH_NEW_ATTEMPT:
        assert refusals(project, move) == [(0, ILLEGAL, "node.patch.state")]
        return
    write(project, move)
    assert node(project, "n").state == _state(after)
    assert node(project, "n").attempt == _ATTEMPT + 1


@pytest.mark.parametrize("before, after", sorted(_WITH_NEW_ATTEMPT))
def test_going_back_without_the_next_attempt_is_illegal(before: str, after: str) -> None:
    for attempt in (0, _ATTEMPT - 1, _ATTEMPT, _ATTEMPT + 2):
        assert refusals(_with_node(before), patch("n", state=_state(after), attempt=attempt)) == [
            (0, ILLEGAL, "node.patch.state")
        ]


@pytest.mark.parametrize("state", _NODE_MOVES)
@pytest.mark.parametrize("move", [-2, -1, 2, 3])
def test_an_attempt_moves_by_one_only(state: str, move: int) -> None:
    assert refusals(_with_node(state), patch("n", attempt=_ATTEMPT + move)) == [
        (0, INVALID, "node.patch.attempt")
    ]


@pytest.mark.parametrize("state", _NODE_MOVES)
def test_in_every_state_the_present_attempt_changes_nothing_and_the_next_is_taken(
    state: str,
) -> None:
    project = _with_node(state)
    write(project, patch("n", attempt=_ATTEMPT))
    assert (node(project, "n").attempt, node(project, "n").version) == (_ATTEMPT, 1)
    write(project, patch("n", attempt=_ATTEMPT + 1))
    assert (node(project, "n").attempt, node(project, "n").version) == (_ATTEMPT + 1, 2)


@pytest.mark.parametrize("state", _NODE_MOVES)
def test_a_patch_without_a_state_is_legal_in_every_state(state: str) -> None:
    project = _with_node(state)
    write(project, patch("n", superseded=True, usage={"input_tokens": 7}))
    write(project, patch("n", waiting_on="review"))
    shown = node(project, "n")
    assert (shown.state, shown.superseded, shown.usage.input_tokens) == (_state(state), True, 7)
    assert shown.waiting_on == "review"


@pytest.mark.parametrize("state", _NODE_MOVES)
@pytest.mark.parametrize("number", [0, 99, -1])
def test_a_state_that_is_none_is_refused(state: str, number: int) -> None:
    mutation = patch("n")
    mutation.node.patch.state = number  # type: ignore[assignment]
    assert refusals(_with_node(state), mutation) == [(0, INVALID, "node.patch.state")]


@pytest.mark.parametrize("before, after", _NODE_PAIRS)
def test_a_start_is_stamped_by_running_and_an_end_by_a_terminal_state(
    before: str, after: str
) -> None:
    if after not in _NODE_MOVES[before].split():
        return
    project = _with_node(before)
    write(project, patch("n", state=_state(after)), micros=NOW + 5_000_001)
    shown = node(project, "n")
    assert shown.HasField("start_time") == (after == "RUNNING")
    assert shown.HasField("end_time") == (after in ("DONE", "FAILED", "CANCELLED"))
    stamp = shown.start_time if after == "RUNNING" else shown.end_time
    if shown.HasField("start_time") or shown.HasField("end_time"):
        assert stamp.ToMicroseconds() == NOW + 5_000_001


@pytest.mark.parametrize("before, after", _PROJECT_PAIRS)
def test_a_project_moves_only_as_the_table_says(before: str, after: str) -> None:
    project = _with_state(before)
    move = change_project(state=_project_state(after))
    if after != before and after not in _PROJECT_MOVES[before].split():
        assert refusals(project, move) == [(0, ILLEGAL, "project.patch.state")]
        return
    write(project, move)
    assert project.entity.state == _project_state(after)
    assert project.entity.version == (1 if after == before else 2)


@pytest.mark.parametrize("before, after", _PROJECT_PAIRS)
def test_a_project_is_stamped_at_its_first_start_and_at_each_end(before: str, after: str) -> None:
    if after not in _PROJECT_MOVES[before].split():
        return
    project = _with_state(before)
    write(project, change_project(state=_project_state(after)))
    entity = project.entity
    assert entity.HasField("start_time") == (after == "RUNNING")
    ends = ("COMPLETED", "PARTIAL", "FAILED", "CANCELLED")
    assert entity.HasField("end_time") == (after in ends)


def test_a_project_that_runs_again_keeps_its_first_start() -> None:
    project = live_project()
    running = change_project(state=_project_state("RUNNING"))
    write(project, running, micros=NOW + 1)
    write(project, change_project(state=_project_state("FAILED")), micros=NOW + 2)
    write(project, running, micros=NOW + 3)
    assert project.entity.start_time.ToMicroseconds() == NOW + 1


def test_a_table_that_names_an_unknown_state_is_not_read() -> None:
    with pytest.raises(KeyError):
        transitions.read_table(NodeState.DESCRIPTOR, "NO_SUCH_PREFIX_")


def test_initial_and_terminal_states_are_those_of_the_contract() -> None:
    names = transitions.NODE.names
    assert {names[n] for n in transitions.NODE.initial} == {"PENDING", "READY"}
    assert {names[n] for n in transitions.NODE.terminal} == {"DONE", "FAILED", "CANCELLED"}
    names = transitions.PROJECT.names
    assert {names[n] for n in transitions.PROJECT.initial} == {"PENDING", "PAUSED"}
    assert {names[n] for n in transitions.PROJECT.terminal} == {
        "COMPLETED",
        "PARTIAL",
        "FAILED",
        "CANCELLED",
    }
