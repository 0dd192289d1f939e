"""Any accepted history, replayed from its segments or from a snapshot and the segments after it,
gives the view that was there, and the same positions of producers (SEM 5, 10)."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.v1.command_pb2 import Command, CommandPatch, CommandState, CommandType
from ramify.v1.mutation_pb2 import (
    CommandMutation,
    Mutation,
    NodeDelete,
    NodeMutation,
    ProjectMutation,
)
from ramify.v1.node_pb2 import Node, NodePatch, NodeState, TaskType
from ramify.v1.project_pb2 import Project, ProjectPatch, ProjectState
from state_svc.codec.segment import decode_segment, encode_segment
from state_svc.codec.snapshot import decode_snapshot, encode_snapshot, freeze
from state_svc.errors import BatchRejected
from state_svc.history.replay import Replay
from state_svc.model.apply import apply_batch
from state_svc.model.checksum import view_checksum
from state_svc.model.entity import change_lease, create_project
from state_svc.model.project import Applied, LiveProject, Origin, View

_IDS = [f"n{i}" for i in range(6)]


@st.composite
def _node_mutations(draw: st.DrawFn) -> Mutation:
    node_id = draw(st.sampled_from(_IDS))
    kind = draw(st.sampled_from(["create", "patch", "patch", "patch", "delete"]))
    if kind == "delete":
        return Mutation(node=NodeMutation(node_id=node_id, delete=NodeDelete()))
    if kind == "create":
        parent = draw(st.sampled_from(["", "", *_IDS]))
        node = Node(
            goal="some work",
            task_type=TaskType.TASK_TYPE_THINK,
            parent_node_id=parent,
            layer=1 if parent else 0,
            state=draw(st.sampled_from([NodeState.NODE_STATE_PENDING, NodeState.NODE_STATE_READY])),
            depends_on=draw(st.lists(st.sampled_from(_IDS), max_size=2, unique=True)),
        )
        return Mutation(node=NodeMutation(node_id=node_id, create=node))
    patch = NodePatch()
    if draw(st.booleans()):
        patch.state = draw(st.sampled_from(NodeState.values()[1:]))
    if draw(st.booleans()):
        patch.attempt = draw(st.integers(0, 4))
    if draw(st.booleans()):
        patch.waiting_on = draw(st.sampled_from(["", "a", "b"]))
    if draw(st.booleans()):
        patch.result.text = draw(st.sampled_from(["", "result", "x" * 2_000]))
    if draw(st.booleans()):
        patch.aux_upserts[draw(st.sampled_from("kl"))].number_value = draw(st.integers(0, 2))
    if draw(st.booleans()):
        patch.aux_removals.append(draw(st.sampled_from("kl")))
    if draw(st.integers(0, 3)) == 0:
        patch.clear_fields.append(draw(st.sampled_from(["error", "waiting_on", "aux_data"])))
    return Mutation(node=NodeMutation(node_id=node_id, patch=patch))


@st.composite
def _other_mutations(draw: st.DrawFn) -> Mutation:
    kind = draw(st.sampled_from(["project", "command", "outcome"]))
    if kind == "project":
        patch = ProjectPatch()
        if draw(st.booleans()):
            patch.state = draw(st.sampled_from(ProjectState.values()[1:]))
        patch.label_upserts["k"] = draw(st.sampled_from("ab"))
        return Mutation(project=ProjectMutation(patch=patch))
    command_id = draw(st.sampled_from(["c1", "c2"]))
    if kind == "command":
        order = Command(type=CommandType.COMMAND_TYPE_CANCEL_PROJECT)
        return Mutation(command=CommandMutation(command_id=command_id, create=order))
    outcome = CommandPatch(state=CommandState.COMMAND_STATE_APPLIED)
    return Mutation(command=CommandMutation(command_id=command_id, patch=outcome))


_BATCHES = st.lists(st.one_of(_node_mutations(), _node_mutations(), _other_mutations()), max_size=4)


@dataclass
class _History:
    """A project, and every revision it has had, as stored."""

    project: LiveProject
    revisions: list[Applied] = field(default_factory=list)

    def add(self, applied: Applied) -> None:
        self.project.accept(applied)
        self.project.promote(applied)
        self.revisions.append(applied)


def _history(batches: list[list[Mutation]]) -> _History:
    entity = Project(project_id="p", project_uid="uid", goal="a test")
    history = _History(LiveProject(View(entity=entity)))
    history.add(create_project(entity, micros=5, actor="me"))
    sequences = {"one": 0, "two": 0}
    for number, mutations in enumerate(batches):
        if number % 5 == 4:
            history.add(change_lease(history.project, "h", number, micros=number, actor="h"))
        producer = "one" if number % 3 else "two"
        origin = Origin(producer, 1, sequences[producer] + 1)
        try:
            applied = apply_batch(history.project, mutations, micros=10 + number, origin=origin)
        except BatchRejected:
            continue
        sequences[producer] += 1
        history.add(applied)
    return history


def _shown(view: View) -> object:
    return (
        view.entity,
        view.revision,
        view.micros,
        [node.to_node() for node in view.nodes.values()],
        view.commands,
        view.deleted,
        {state: count for state, count in view.counts.items() if count},
        view_checksum(view.nodes.values()),
    )


def _assert_same(replay: Replay, history: _History) -> None:
    assert _shown(replay.view) == _shown(history.project.view)
    for producer_id, position in history.project.producers.items():
        known = replay.producers[producer_id]
        assert (known.epoch, known.committed) == (position.epoch, position.committed)
        for sequence in range(1, position.committed + 1):
            assert known.revision_of(sequence) == position.revision_of(sequence)


@given(st.lists(_BATCHES, max_size=25), st.integers(1, 5), st.data())
@settings(max_examples=60)
def test_a_replayed_history_gives_the_same_project(
    batches: list[list[Mutation]], per_segment: int, data: st.DataObject
) -> None:
    history = _history(batches)
    cuts = range(0, len(history.revisions), per_segment)
    segments = [
        decode_segment(encode_segment("uid", history.revisions[at : at + per_segment], 64).record)
        for at in cuts
    ]
    replay = Replay()
    for segment in segments:
        replay.add_segment(segment)
    _assert_same(replay, history)

    middle = data.draw(st.integers(1, len(history.revisions)))
    early = Replay()
    for segment in segments:
        if early.view.revision < middle:
            early.add_segment(segment, middle)
    live = LiveProject(early.view)
    live.producers = early.producers
    restored = Replay()
    restored.view, restored.producers = decode_snapshot(list(encode_snapshot(freeze(live))))
    assert restored.view.revision == middle
    rest = [applied for applied in history.revisions if applied.revision > middle]
    if rest:
        restored.add_segment(decode_segment(encode_segment("uid", rest, 64).record))
    _assert_same(restored, history)
