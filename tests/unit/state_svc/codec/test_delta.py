"""A delta of any size reaches the watcher in messages that gRPC takes, whole or not at all."""

from __future__ import annotations

from ramify.v1.mutation_pb2 import Delta
from ramify.v1.state_service_pb2 import WatchProjectResponse
from state_svc.codec.delta import encode_watch_deltas

_MOST = 4 << 20  #: what gRPC's clients take unless told otherwise


def test_fragments_of_many_revisions_fit_into_messages_and_have_each_revision_once() -> None:
    body = Delta(coalesced=True)
    for revision in range(1, 9_001):
        body.revisions.add(revision=revision, actor="\U0001f600" * 255)
        for index in range(2):
            change = body.changes.add(revision=revision, index=index)
            change.node.node_id = f"n{revision}-{index}"
    messages = list(encode_watch_deltas(1, 9_000, body.SerializeToString()))
    assert max(len(data) for data, _ in messages) < _MOST
    assert [promised for _, promised in messages] == [None] * (len(messages) - 1) + [9_000]
    parts = []
    for data, promised in messages:
        message = WatchProjectResponse.FromString(data)
        assert message.resume_revision == (promised or 0)
        parts.append(message.delta)
        named = [info.revision for info in message.delta.revisions]
        assert named == sorted({change.revision for change in message.delta.changes})
        assert message.delta.coalesced
    assert [change for part in parts for change in part.changes] == list(body.changes)
    assert [(part.first_revision, part.last_revision) for part in parts] == [
        (1, 9_000),
        *[(9_000, 9_000)] * (len(parts) - 1),
    ]


def test_fragments_of_tiny_changes_fit_into_messages() -> None:
    body = Delta()
    body.revisions.add(revision=7)
    for index in range(600_000):
        body.changes.add(revision=7, index=index)
    messages = [data for data, _ in encode_watch_deltas(7, 7, body.SerializeToString())]
    assert max(map(len, messages)) < _MOST
    assert all(WatchProjectResponse.FromString(data).delta.revisions for data in messages)
