"""The checksum of a view is what any language computes from ids and versions (SEM 31)."""

from __future__ import annotations

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from ramify.v1.node_pb2 import Node
from state_svc.model.checksum import RunningChecksum, node_checksum, view_checksum
from state_svc.model.node import LiveNode, live_from_message

_VIEWS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1 << 40))


def _by_hand(view: dict[str, int]) -> int:
    total = 0
    for node_id, version in view.items():
        digest = hashlib.new("sha256")
        digest.update(node_id.encode("utf-8"))
        digest.update(bytes(1))
        digest.update(str(version).encode("ascii"))
        (first,) = struct.unpack_from(">Q", digest.digest())
        total = (total + first) & 0xFFFF_FFFF_FFFF_FFFF
    return total


def _nodes(view: dict[str, int]) -> dict[str, LiveNode]:
    return {
        node_id: live_from_message(Node(node_id=node_id), version=version, revision=1, micros=0)
        for node_id, version in view.items()
    }


def test_two_values_are_as_they_were_published() -> None:
    assert f"{node_checksum('root', 1):016x}" == hashlib.sha256(b"root\x001").hexdigest()[:16]
    assert view_checksum([]) == 0


@given(_VIEWS)
def test_a_view_has_the_sum_over_its_nodes_in_any_order(view: dict[str, int]) -> None:
    nodes = list(_nodes(view).values())
    assert view_checksum(nodes) == view_checksum(reversed(nodes)) == _by_hand(view)


@given(st.lists(_VIEWS, min_size=1), st.data())
def test_the_running_checksum_is_that_of_the_view_whenever_it_is_asked_for(
    views: list[dict[str, int]], data: st.DataObject
) -> None:
    running, before = RunningChecksum(), views[0]
    assert running.begin()
    assert not running.begin(), "somebody has begun already"
    first = list(_nodes(before).values())
    half = len(first) // 2
    parts = running.add(first[:half])
    for view in views:
        changed = {k for k in {*view, *before} if view.get(k) != before.get(k)}
        running.touch(changed)
        if not running.is_complete:
            # The rest of the beginning is added after the first changes.
            parts += running.add(first[half:])
            assert parts % (1 << 64) == _by_hand(views[0])
            running.is_complete = True
        running.settle(_nodes(view), data.draw(st.integers(0, 3)))
        if data.draw(st.booleans()):
            assert running.value(_nodes(view)) == _by_hand(view)
        before = view
    assert running.value(_nodes(before)) == _by_hand(before)
