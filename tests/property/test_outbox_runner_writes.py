"""The outbox against a model of state_svc: nothing is lost, doubled or reordered, all is bounded.

The model answers every batch once: it acks, refuses for now, or asks for an earlier one. It may
refuse an attach for now. Commits fail, connections break with anything under way, and the server
stays where it was.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator_svc.publish.outbox import FRAME_WINDOW, LANE_WINDOW, LaneState, Outbox

PROJECTS = ("a", "b", "c")
CREDIT_BATCHES = 9
CREDIT_BYTES = 60
MAX_FRAME_BATCHES = 5
MAX_FRAME_BYTES = 40
RETRY_AFTER = 1.0

Reply = tuple[str, str, int, int]  #: kind, project, sequence, revision or position


@dataclass
class Position:
    """What the server has of one project."""

    committed: list[int] = field(default_factory=list)  #: bodies; index + 1 is the sequence
    pending: list[int] = field(default_factory=list)
    orphans: set[int] = field(default_factory=set)  #: pending from a connection that is gone

    @property
    def accepted(self) -> int:
        return len(self.committed) + len(self.pending)


class OutboxMachine(RuleBasedStateMachine):
    """Interleaves offers, frames, answers, failures and broken connections."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox: Outbox[int] = Outbox()
        self.offered: dict[str, list[int]] = {p: [] for p in PROJECTS}
        self.acked: dict[str, list[tuple[int, int]]] = {p: [] for p in PROJECTS}
        self.server = {p: Position() for p in PROJECTS}
        self.wire: deque[tuple[str, int, int]] = deque()  #: project, sequence (0: attach), body
        self.replies: deque[Reply] = deque()
        self.bodies = 0
        self.now = 0.0

    @initialize()
    def open_everything(self) -> None:
        self.outbox.connected(CREDIT_BATCHES, CREDIT_BYTES)
        for project in PROJECTS:
            self.outbox.open_lane(project, f"uid-{project}")

    @rule(project=st.sampled_from(PROJECTS), size=st.integers(1, 30))
    def offer(self, project: str, size: int) -> None:
        self.bodies += 1
        self.offered[project].append(self.bodies)
        self.outbox.offer(project, self.bodies, size)

    @rule()
    def send(self) -> None:
        self.wire += ((project, 0, 0) for project in self.outbox.take_attaches(self.now))
        frame = self.outbox.take_frame(MAX_FRAME_BATCHES, MAX_FRAME_BYTES, self.now)
        assert len(frame) <= MAX_FRAME_BATCHES
        assert len(frame) <= 1 or sum(entry.size for _, entry in frame) <= MAX_FRAME_BYTES
        self.wire += ((project, entry.sequence, entry.body) for project, entry in frame)

    @precondition(lambda self: self.wire)
    @rule(refuse=st.integers(0, 5))
    def server_reads(self, refuse: int) -> None:
        project, sequence, body = self.wire.popleft()
        position = self.server[project]
        if not sequence:
            kind = "attached" if refuse else "later"
            self.replies.append((kind, project, 0, len(position.committed)))
        elif sequence == position.accepted + 1:
            if refuse:
                position.pending.append(body)
            else:
                self.replies.append(("stall", project, sequence, 0))
        elif sequence > position.accepted:
            self.replies.append(("gap", project, sequence, position.accepted + 1))
        else:
            assert ([*position.committed, *position.pending])[sequence - 1] == body
            position.orphans.discard(body)
            if sequence <= len(position.committed):
                self.replies.append(("ack", project, sequence, sequence + 100))

    @rule(fails=st.integers(0, 4))
    def server_commits(self, fails: int) -> None:
        for project, position in self.server.items():
            first = len(position.committed) + 1
            for offset, body in enumerate(position.pending):
                if fails:
                    position.committed.append(body)
                    reply = ("ack", project, first + offset, first + offset + 100)
                else:
                    reply = ("stall", project, first + offset, 0)
                if body not in position.orphans:
                    self.replies.append(reply)
            position.pending.clear()
            position.orphans.clear()

    @precondition(lambda self: self.replies)
    @rule()
    def answer_arrives(self) -> None:
        kind, project, sequence, value = self.replies.popleft()
        if kind == "attached":
            self.outbox.attached(project, f"uid-{project}", value)
        elif kind == "later":
            self.outbox.attach_later(project, self.now + RETRY_AFTER)
        elif kind == "ack":
            for item in self.outbox.acks(project, sequence, sequence, value):
                self.acked[project].append((item.body, item.revision))
        elif kind == "gap":
            self.outbox.gap(project, sequence, value, self.now + RETRY_AFTER)
        else:
            self.outbox.stall(project, sequence, self.now + RETRY_AFTER)

    @rule(half_read=st.integers(0, 6), pending=st.sampled_from(["commit", "drop", "keep"]))
    def connection_breaks(self, half_read: int, pending: str) -> None:
        for _ in range(min(half_read, len(self.wire))):
            self.server_reads(refuse=1)
        if pending == "commit":
            self.server_commits(fails=1)
        for position in self.server.values():
            if pending == "drop":
                position.pending.clear()
            position.orphans = set(position.pending)
        self.wire.clear()
        self.replies.clear()
        self.outbox.connected(CREDIT_BATCHES, CREDIT_BYTES)

    @rule()
    def time_passes(self) -> None:
        self.now += RETRY_AFTER

    @invariant()
    def what_is_durable_is_what_was_offered_in_order_and_once(self) -> None:
        for project, position in self.server.items():
            stored = [*position.committed, *position.pending]
            assert stored == self.offered[project][: len(stored)]

    @invariant()
    def acks_are_in_order_and_name_the_original_revision(self) -> None:
        for project, acked in self.acked.items():
            assert [body for body, _ in acked] == self.offered[project][: len(acked)]
            assert [revision for _, revision in acked] == [101 + i for i in range(len(acked))]
            assert len(acked) <= len(self.server[project].committed)

    @invariant()
    def what_is_in_flight_is_bounded(self) -> None:
        outbox = self.outbox
        lanes = outbox.lanes()
        assert all(len(lane.in_flight) <= LANE_WINDOW for lane in lanes)
        assert outbox.batches_in_flight == sum(len(lane.in_flight) for lane in lanes)
        assert outbox.bytes_in_flight == sum(sum(lane.in_flight.values()) for lane in lanes)
        assert outbox.batches_in_flight <= CREDIT_BATCHES
        assert outbox.batches_in_flight <= 1 or outbox.bytes_in_flight <= CREDIT_BYTES
        assert outbox.frames_in_flight <= FRAME_WINDOW

    @invariant()
    def what_is_held_is_what_is_not_acked(self) -> None:
        offered = sum(map(len, self.offered.values()))
        assert self.outbox.held_batches == offered - sum(map(len, self.acked.values()))

    def teardown(self) -> None:
        """Without further failures everything arrives."""
        for _ in range(20 + 3 * self.bodies):
            self.send()
            while self.wire:
                self.server_reads(refuse=1)
            self.server_commits(fails=1)
            while self.replies:
                self.answer_arrives()
            self.time_passes()
        for project in PROJECTS:
            assert self.server[project].committed == self.offered[project]
            assert len(self.acked[project]) == len(self.offered[project])
        assert not self.outbox.held_bytes
        assert all(lane.state is LaneState.OPEN for lane in self.outbox.lanes())


OutboxMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestOutbox = OutboxMachine.TestCase
