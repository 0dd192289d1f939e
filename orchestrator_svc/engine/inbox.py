"""Holds what has happened to a run until its runner looks. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator_svc.graph.event import CallProgressed, Event


class Inbox:
    """Events in order; of the progress of a call the latest only. Owned by a runner.

    So a runner that cannot look for a while has at most one note for each open call here.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = list(events)
        self._notes: dict[tuple[str, int], CallProgressed] = {}  #: by node and call

    def __len__(self) -> int:
        return len(self._events) + len(self._notes)

    def post(self, event: Event) -> None:
        """Append an event; progress takes the place of the call's earlier one."""
        if isinstance(event, CallProgressed):
            self._notes[event.node_id, event.number] = event
        else:
            self._events.append(event)

    def take(self) -> list[Event]:
        """Return everything and hold nothing. Progress is first: it precedes its call's end."""
        events: list[Event] = [*self._notes.values(), *self._events]
        self._notes, self._events = {}, []
        return events
