"""What is encoded by hand is byte for byte what protobuf encodes."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.mutation_pb2 import Change, Delta, NodeChange, RevisionInfo
from ramify.v1.node_pb2 import Node, NodePatch, NodeState
from ramify.v1.state_service_pb2 import WatchProjectResponse
from state_svc.codec.delta import encode_delta, encode_watch_delta
from state_svc.model.wire import (
    bytes_field,
    create_change,
    message_change,
    patch_change,
    revision_prefix,
    timestamp_field,
    varint,
    varint_field,
)

_NUMBERS = st.one_of(
    st.integers(0, 1 << 63),
    st.sampled_from([0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, (1 << 64) - 1]),
)
_NAMES = st.text(st.characters(codec="utf-8"), max_size=300)
_PATCHES = st.builds(
    NodePatch,
    state=st.sampled_from(NodeState.values()[1:]),
    output_summary=st.sampled_from([None, "", "x" * 20_000]),
    attempt=st.sampled_from([None, 0, 1, 300]),
)


@given(_NUMBERS)
def test_a_varint_is_that_of_protobuf(number: int) -> None:
    assert varint_field(1, number) == Delta(first_revision=number).SerializeToString()
    assert varint_field(1, number) == (b"\x08" + varint(number) if number else b"")


@given(_NAMES)
def test_a_string_is_that_of_protobuf(text: str) -> None:
    shown = Node.FromString(bytes_field(Node.GOAL_FIELD_NUMBER, text.encode()))
    assert shown == Node(goal=text)
    if text:
        assert bytes_field(2, text.encode()) == Node(goal=text).SerializeToString()


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_timestamp_replaces_an_earlier_one_in_full(micros: int) -> None:
    field = timestamp_field(NodePatch.START_TIME_FIELD_NUMBER, micros)
    earlier = NodePatch(start_time=Timestamp(seconds=99, nanos=999_000)).SerializeToString()
    expected = Timestamp()
    expected.FromMicroseconds(micros)
    assert NodePatch.FromString(earlier + field).start_time == expected
    assert NodePatch.FromString(field).start_time == expected


@given(
    revision=st.integers(1, 1 << 50),
    index=st.sampled_from([0, 1, 15, 127, 128, 4_999]),
    node_id=st.text("abcXYZ019._~-", min_size=1, max_size=128),
    version=_NUMBERS.filter(bool),
    patch=_PATCHES,
    state=st.sampled_from(NodeState.values()[1:]),
    agent=_NAMES,
)
def test_the_patch_of_a_node_is_that_of_protobuf(
    revision: int,
    index: int,
    node_id: str,
    version: int,
    patch: NodePatch,
    state: NodeState.ValueType,
    agent: str,
) -> None:
    data = patch.SerializeToString()
    found = patch_change(revision_prefix(revision), index, node_id, version, data, state, agent)
    change = Change(
        revision=revision,
        index=index,
        node=NodeChange(
            node_id=node_id,
            version=version,
            patch=patch,
            previous_state=state,
            previous_agent_name=agent,
        ),
    )
    assert found == Delta(changes=[change]).SerializeToString()
    assert message_change(change) == found


@given(
    revision=st.integers(1, 1 << 50),
    index=st.sampled_from([0, 1, 15, 127, 128, 4_999]),
    node_id=st.text("abcXYZ019._~-", min_size=1, max_size=128),
    goal=_NAMES,
)
def test_a_new_node_is_that_of_protobuf(revision: int, index: int, node_id: str, goal: str) -> None:
    node = Node(node_id=node_id, goal=goal)
    found = create_change(revision_prefix(revision), index, node_id, node.SerializeToString())
    change = Change(
        revision=revision, index=index, node=NodeChange(node_id=node_id, version=1, node=node)
    )
    assert found == Delta(changes=[change]).SerializeToString()


@given(st.lists(st.builds(RevisionInfo, revision=st.integers(1, 1 << 40), actor=_NAMES)))
def test_joined_bodies_are_one_delta(infos: list[RevisionInfo]) -> None:
    bodies = [
        Delta(revisions=[info], changes=[Change(revision=info.revision)]).SerializeToString()
        for info in infos
    ]
    expected = Delta(
        first_revision=3,
        last_revision=300,
        revisions=infos,
        changes=[Change(revision=info.revision) for info in infos],
    )
    assert Delta.FromString(encode_delta(3, 300, bodies)) == expected
    message = WatchProjectResponse.FromString(encode_watch_delta(3, 300, b"".join(bodies)))
    assert message == WatchProjectResponse(resume_revision=300, delta=expected)
