"""The outbox alone: what a stalled lane waits for."""

from __future__ import annotations

from orchestrator_svc.publish.outbox import FRAME_WINDOW, Outbox


def test_a_stalled_lane_waits_for_its_time_then_for_room_but_never_for_what_is_past() -> None:
    """A time that is past would make the sender look again and again until an answer comes."""
    outbox: Outbox[str] = Outbox()
    outbox.connected(1_000, 1 << 20)
    for lane in ("stalled", *(f"busy-{number}" for number in range(FRAME_WINDOW))):
        outbox.open_lane(lane, "uid")
        outbox.attached(lane, "uid", 0)
    outbox.offer("stalled", "a", 10)
    assert outbox.take_frame(1, 1 << 20, now=0.0)
    outbox.stall("stalled", 1, resume_at=5.0)
    for number in range(FRAME_WINDOW):
        outbox.offer(f"busy-{number}", "b", 10)
        assert outbox.take_frame(1, 1 << 20, now=1.0)
    assert outbox.next_resume(now=1.0) == 5.0
    assert not outbox.take_frame(1, 1 << 20, now=5.0), "the window is full"
    assert outbox.next_resume(now=5.0) is None, "an answer makes room and wakes the sender"
    outbox.acks("busy-0", 1, 1, 7)
    frame = outbox.take_frame(1, 1 << 20, now=5.0)
    assert [(lane, entry.body) for lane, entry in frame] == [("stalled", "a")]
