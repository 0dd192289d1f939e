"""Output of unknown length is kept at both ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.processes.bounded import BoundedOutput


@given(parts=st.lists(st.binary(max_size=9)), head=st.integers(0, 8), tail=st.integers(0, 8))
def test_head_and_tail_are_kept_and_what_is_left_out_is_counted(
    parts: list[bytes], head: int, tail: int
) -> None:
    output = BoundedOutput(head, tail)
    for part in parts:
        output.add(part)
    whole = b"".join(parts)
    first, last = output.value()
    assert len(first) + output.dropped + len(last) == len(whole) == output.total
    assert whole.startswith(first)
    assert whole.endswith(last)
    assert len(first) <= head
    assert len(last) <= tail
    if len(whole) <= head + tail:
        assert first + last == whole
