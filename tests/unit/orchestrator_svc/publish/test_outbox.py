"""The outbox alone: what a lane waits for that was refused for now."""

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


def test_an_attach_refused_for_now_is_sent_again_at_its_time_with_all_that_is_held() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.connected(1_000, 1 << 20)
    outbox.open_lane("p", "uid")
    assert outbox.take_attaches(now=0.0) == ["p"]
    outbox.offer("p", "a", 10)
    assert outbox.attach_later("p", resume_at=5.0) == 1
    assert outbox.next_resume(now=1.0) == 5.0
    assert not outbox.take_attaches(now=1.0)
    assert outbox.take_attaches(now=5.0) == ["p"]
    assert outbox.next_resume(now=1.0) is None, "the answer is waited for, no time"
    assert outbox.attach_later("p", resume_at=9.0) == 2
    assert not outbox.take_frame(9, 1 << 20, now=9.0), "its position is not known"
    assert outbox.take_attaches(now=9.0) == ["p"]
    outbox.attached("p", "uid", 0)
    frame = outbox.take_frame(9, 1 << 20, now=9.0)
    assert [(lane, entry.sequence, entry.body) for lane, entry in frame] == [("p", 1, "a")]


def test_a_new_connection_attaches_at_once_and_a_late_refusal_changes_no_open_lane() -> None:
    outbox: Outbox[str] = Outbox()
    outbox.connected(1_000, 1 << 20)
    outbox.open_lane("p", "uid")
    assert outbox.take_attaches(now=0.0) == ["p"]
    outbox.attach_later("p", resume_at=5.0)
    outbox.connected(1_000, 1 << 20)
    assert outbox.take_attaches(now=1.0) == ["p"]
    outbox.attached("p", "uid", 0)
    assert outbox.attach_later("p", resume_at=5.0) == 1, "not counted again"
    assert not outbox.take_attaches(now=5.0)
    assert outbox.next_resume(now=1.0) is None
    assert outbox.attach_later("gone", resume_at=5.0) == 0
