"""The short way for usual patches gives what the long way gives, or leaves the patch to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.node_pb2 import Node, NodePatch, NodeState, TaskType
from state_svc.model import patch as long_way
from state_svc.model.node import LiveNode, live_from_message
from state_svc.model.problem import Problem
from state_svc.model.scalar_patch import scan

_TEXTS = st.sampled_from(["", "a", "agent-1", "dependency:n1", "x" * 300, "é" * 200])
_COUNTS = st.sampled_from([0, 1, 2, 127, 128, 300, 70_000])


@st.composite
def _nodes(draw: st.DrawFn) -> LiveNode:
    node = Node(
        node_id="n",
        goal="some work",
        task_type=TaskType.TASK_TYPE_WRITE,
        state=draw(st.sampled_from(NodeState.values()[1:])),
        attempt=draw(st.integers(0, 3)),
        retry_count=draw(_COUNTS),
        agent_name=draw(_TEXTS),
        waiting_on=draw(_TEXTS),
        output_summary=draw(_TEXTS),
        superseded=draw(st.booleans()),
    )
    return live_from_message(node, version=3, revision=7, micros=1_000_000)


@st.composite
def _patches(draw: st.DrawFn) -> NodePatch:
    patch = NodePatch()
    if draw(st.booleans()):
        patch.state = draw(st.sampled_from(NodeState.values()))
    if draw(st.booleans()):
        patch.attempt = draw(st.integers(0, 4))
    for name, values in (
        ("retry_count", _COUNTS),
        ("agent_name", _TEXTS),
        ("waiting_on", _TEXTS),
        ("output_summary", _TEXTS),
        ("superseded", st.booleans()),
        ("goal", st.just("other work")),
    ):
        if draw(st.integers(0, 2)) == 0:
            setattr(patch, name, draw(values))
    if draw(st.integers(0, 5)) == 0:
        patch.aux_upserts["k"].number_value = 1
    if draw(st.integers(0, 5)) == 0:
        patch.clear_fields.append("error")
    return patch


@given(_nodes(), _patches())
def test_the_short_way_equals_the_long_way(live: LiveNode, patch: NodePatch) -> None:
    encoded = patch.SerializeToString()
    short = scan(live, encoded)
    if short is None:
        return
    try:
        effect = long_way.node_effect(live, patch, 5_000_000)
    except Problem as problem:
        raise AssertionError(f"the short way took what is refused: {problem}") from problem
    assert effect is not None, "the short way took what changes nothing"
    node, changed = effect
    changed.ClearField("start_time")
    changed.ClearField("end_time")
    assert changed == patch, "every field of the patch changes"
    node.ClearField("start_time")
    node.ClearField("end_time")
    assert Node.FromString(live.data + encoded) == node
    assert short == (node.state, node.attempt, node.agent_name)


@given(_nodes(), _patches())
def test_an_effect_put_back_on_the_node_gives_the_same_node(
    live: LiveNode, patch: NodePatch
) -> None:
    try:
        effect = long_way.node_effect(live, patch, 5_000_000)
    except Problem:
        return
    replayed = Node.FromString(live.data)
    if effect is None:
        return
    node, changed = effect
    long_way.replay_node(replayed, changed)
    assert replayed == node
