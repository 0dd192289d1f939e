"""The inbox of a runner: nothing is lost, and however long nobody looks, notes do not pile up."""

from __future__ import annotations

from orchestrator_svc.engine.abandon import CANCELLED
from orchestrator_svc.engine.inbox import Inbox
from orchestrator_svc.graph.event import CallEnded, CallProgressed, TimeReached


def test_of_the_notes_of_a_call_the_latest_waits_however_many_come() -> None:
    inbox = Inbox()
    for number in range(10_000):
        inbox.post(CallProgressed("a", 1, str(number)))
        inbox.post(CallProgressed("b", 1, str(number)))
    assert len(inbox) == 2
    assert inbox.take() == [CallProgressed("a", 1, "9999"), CallProgressed("b", 1, "9999")]
    assert not inbox


def test_every_other_event_waits_in_order_and_a_note_comes_before_the_end_of_its_call() -> None:
    ends = [CallEnded(id_, 1, CANCELLED) for id_ in "ab"]
    inbox = Inbox([TimeReached()])
    inbox.post(CallProgressed("a", 1, "note"))
    for end in ends:
        inbox.post(end)
    inbox.post(TimeReached())
    assert inbox.take() == [CallProgressed("a", 1, "note"), TimeReached(), *ends, TimeReached()]
