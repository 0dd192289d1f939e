"""Keeps every batch until it is durable, in order and at most a few in flight. Pure: no I/O.

A *lane* is one project's row of batches: sequences from 1 per project and epoch (SEM 1). Of a
lane at most `LANE_WINDOW` batches are in flight, of the stream at most `FRAME_WINDOW` frames and
what the server gives as credits: while they are away, later decisions gather into fuller
batches and frames, which is what keeps latency low under load.

Every batch that was sent is answered once by an ack or a reject, or the connection ends. After
a reject that may pass (store away, overload) the lane waits until all it has in flight is
answered and then resends from its first unacked batch; the server knows repeats (SEM 4, 5). An
attach that is refused so is sent again later, with all that the lane holds behind it. Any other
reject ends the lane: what it still holds was decided on a view that is wrong.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

LANE_WINDOW = 4  #: batches of one project in flight
FRAME_WINDOW = 4  #: frames of the stream in flight


@dataclass(slots=True)
class Entry(Generic[T]):
    """One batch on its way."""

    sequence: int
    body: T
    size: int  #: encoded bytes


class LaneState(enum.Enum):
    """Whether a lane may send."""

    ATTACHING = enum.auto()  #: the server's position is not known in this connection
    OPEN = enum.auto()
    STALLED = enum.auto()  #: rejected for now; resends when all in flight is answered
    CLOSED = enum.auto()  #: kept only until what is in flight is answered


@dataclass(slots=True)
class Lane(Generic[T]):
    """One project's batches that are not yet acked, oldest first."""

    project_id: str
    project_uid: str  #: "" until the first attach of a lane that does not know it
    state: LaneState = LaneState.ATTACHING
    attach_sent: bool = False
    synced: bool = False  #: whether `next_sequence` is known
    next_sequence: int = 1
    acked: int = 0  #: highest sequence known to be durable
    unacked: deque[Entry[T]] = field(default_factory=deque)
    unsent: int = 0  #: how many of `unacked`, counted from the end, are to be sent
    in_flight: dict[int, int] = field(default_factory=dict)  #: sequence → bytes
    resume_at: float = 0.0  #: earliest time of a stalled lane's resend, or of the next attach
    stalls: int = 0  #: in a row, without an ack between them


@dataclass(frozen=True, slots=True)
class Acked(Generic[T]):
    """A batch is durable."""

    project_id: str
    body: T
    revision: int  #: 0 if the server has forgotten which


class PositionLost(Exception):
    """The store's position contradicts what it acked: it went back in time (SEM 13)."""


class Outbox(Generic[T]):
    """All lanes of one producer epoch. Owned by the stream task; methods never wait."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane[T]] = {}
        self._dirty: dict[str, None] = {}  #: lanes that may have something to send, in order
        self._frames: deque[set[tuple[str, int]]] = deque()
        self.credit_batches = 0
        self.credit_bytes = 0
        self.batches_in_flight = 0
        self.bytes_in_flight = 0
        self.held_batches = 0  #: unacked, sent or not
        self.held_bytes = 0

    # Lanes

    def open_lane(self, project_id: str, project_uid: str) -> None:
        """Add a lane; nothing is sent before `attached`.

        There must be none of the project, a closed one included: its last batches may still
        become durable, and a new lane would use their sequences again.
        """
        if project_id in self._lanes:
            raise ValueError(f"{project_id} has a lane already")
        self._lanes[project_id] = Lane[T](project_id, project_uid)
        self._dirty[project_id] = None

    def close_lane(self, project_id: str) -> list[T]:
        """End a lane; return what was not acked. It is gone once nothing of it is in flight."""
        lane = self._lanes.get(project_id)
        if lane is None or lane.state is LaneState.CLOSED:
            return []
        dropped = [entry.body for entry in lane.unacked]
        for entry in lane.unacked:
            self._release(entry)
        lane.unacked.clear()
        lane.unsent = 0
        lane.state = LaneState.CLOSED
        self._dirty.pop(project_id, None)
        self._remove_if_over(lane)
        return dropped

    def _remove_if_over(self, lane: Lane[T]) -> None:
        if lane.state is LaneState.CLOSED and not lane.in_flight:
            self._lanes.pop(lane.project_id, None)

    def lane(self, project_id: str) -> Lane[T] | None:
        """Return a project's lane, a closed one too while something of it is in flight."""
        return self._lanes.get(project_id)

    def lanes(self) -> list[Lane[T]]:
        """Return all lanes."""
        return list(self._lanes.values())

    def offer(self, project_id: str, body: T, size: int) -> None:
        """Append a batch to a lane. The sequence is given when it is first sent in order."""
        lane = self._lanes[project_id]
        sequence = lane.unacked[-1].sequence + 1 if lane.unacked else lane.next_sequence
        lane.unacked.append(Entry(sequence, body, size))
        lane.unsent += 1
        self.held_batches += 1
        self.held_bytes += size
        self._dirty[project_id] = None

    # Connection

    @property
    def frames_in_flight(self) -> int:
        """Frames of which some batch is not answered."""
        return len(self._frames)

    def connected(self, credit_batches: int, credit_bytes: int) -> None:
        """Begin a connection: every lane has to attach again."""
        self.credit_batches, self.credit_bytes = credit_batches, credit_bytes
        self._frames.clear()
        self.batches_in_flight = 0
        self.bytes_in_flight = 0
        for lane in list(self._lanes.values()):
            lane.in_flight.clear()
            if lane.state is LaneState.CLOSED:
                self._remove_if_over(lane)
                continue
            lane.state = LaneState.ATTACHING
            lane.attach_sent = False
            lane.resume_at = 0.0
            lane.unsent = len(lane.unacked)
            self._dirty[lane.project_id] = None

    def take_attaches(self, now: float) -> list[str]:
        """Return the projects to attach now, each once until `attach_later` or a connection."""
        wanted = [
            lane.project_id
            for project_id in self._dirty
            if (lane := self._lanes[project_id]).state is LaneState.ATTACHING
            and not lane.attach_sent
            and lane.resume_at <= now
        ]
        for project_id in wanted:
            self._lanes[project_id].attach_sent = True
        return wanted

    def attach_later(self, project_id: str, resume_at: float) -> int:
        """Take note of a refused attach that may pass; return the lane's stalls in a row.

        It is sent again at `resume_at`; until then the lane keeps what it holds.
        """
        lane = self._lanes.get(project_id)
        if lane is None:
            return 0
        if lane.state is LaneState.ATTACHING and lane.attach_sent:
            lane.attach_sent = False
            lane.stalls += 1
            lane.resume_at = resume_at
        return lane.stalls

    def attached(self, project_id: str, project_uid: str, last_sequence: int) -> None:
        """Take note of the server's position; the lane may send.

        A fresh lane continues after what this epoch wrote before. Raises `PositionLost` if
        the server has less than it acked, or is about another project.
        """
        lane = self._lanes.get(project_id)
        if lane is None or lane.state is not LaneState.ATTACHING:
            return
        if lane.project_uid and project_uid != lane.project_uid:
            raise PositionLost(f"{project_id} is another project than the one loaded")
        if not lane.synced:
            lane.synced = True
            lane.acked = last_sequence
            lane.next_sequence = last_sequence + 1
            for offset, entry in enumerate(lane.unacked):
                entry.sequence = lane.next_sequence + offset
        last_offered = lane.unacked[-1].sequence if lane.unacked else lane.next_sequence - 1
        if not lane.acked <= last_sequence <= last_offered:
            raise PositionLost(
                f"{project_id} is at sequence {last_sequence}, "
                f"{lane.acked} to {last_offered} were possible"
            )
        lane.state = LaneState.OPEN
        self._dirty[project_id] = None

    # Sending

    def take_frame(
        self, max_batches: int, max_bytes: int, now: float
    ) -> list[tuple[str, Entry[T]]]:
        """Return the batches of the next frame, in order per lane; empty if none may go."""
        frame: list[tuple[str, Entry[T]]] = []
        if len(self._frames) >= FRAME_WINDOW:
            return frame
        size = 0
        for project_id in list(self._dirty):
            lane = self._lanes[project_id]
            self._end_stall(lane, now)
            while lane.state is LaneState.OPEN and lane.unsent:
                entry = lane.unacked[len(lane.unacked) - lane.unsent]
                if len(lane.in_flight) >= LANE_WINDOW:
                    break
                if frame and (len(frame) >= max_batches or size + entry.size > max_bytes):
                    return self._send(frame)
                if not self._has_credit(len(frame) + 1, size + entry.size):
                    return self._send(frame)
                lane.unsent -= 1
                lane.in_flight[entry.sequence] = entry.size
                size += entry.size
                frame.append((project_id, entry))
            if lane.state is LaneState.OPEN and not lane.unsent:
                del self._dirty[project_id]
        return self._send(frame)

    def _has_credit(self, batches: int, size: int) -> bool:
        if not self.batches_in_flight and batches == 1:
            return True
        return (
            self.batches_in_flight + batches <= self.credit_batches
            and self.bytes_in_flight + size <= self.credit_bytes
        )

    def _send(self, frame: list[tuple[str, Entry[T]]]) -> list[tuple[str, Entry[T]]]:
        if frame:
            self._frames.append({(project_id, entry.sequence) for project_id, entry in frame})
            self.batches_in_flight += len(frame)
            self.bytes_in_flight += sum(entry.size for _, entry in frame)
        return frame

    def next_resume(self, now: float) -> float | None:
        """Return when the next lane may resend or attach; None if no time is waited for.

        A stalled lane whose time has come at `now` waits for room in the window: answers bring it.
        """
        times = [
            lane.resume_at
            for lane in self._lanes.values()
            if lane.resume_at > now and self._waits_for_time(lane)
        ]
        return min(times, default=None)

    @staticmethod
    def _waits_for_time(lane: Lane[T]) -> bool:
        if lane.state is LaneState.ATTACHING:
            return not lane.attach_sent
        return lane.state is LaneState.STALLED and not lane.in_flight

    def _end_stall(self, lane: Lane[T], now: float) -> None:
        if lane.state is LaneState.STALLED and not lane.in_flight and lane.resume_at <= now:
            lane.state = LaneState.OPEN
            lane.unsent = len(lane.unacked)

    # Answers

    def acks(
        self, project_id: str, first_sequence: int, last_sequence: int, first_revision: int
    ) -> list[Acked[T]]:
        """Take note of durable batches; return those that were not known to be durable yet."""
        lane = self._lanes.get(project_id)
        if lane is None:
            return []
        self._answered(lane, range(first_sequence, last_sequence + 1))
        acked: list[Acked[T]] = []
        while lane.unacked and lane.unacked[0].sequence <= last_sequence:
            entry = lane.unacked.popleft()
            lane.unsent = min(lane.unsent, len(lane.unacked))
            self._release(entry)
            lane.acked = entry.sequence
            lane.next_sequence = entry.sequence + 1
            known = first_revision and entry.sequence >= first_sequence
            revision = first_revision + entry.sequence - first_sequence if known else 0
            acked.append(Acked(project_id, entry.body, revision))
        if acked:
            lane.stalls = 0
        self._touch(lane)
        return acked

    def stall(self, project_id: str, sequence: int, resume_at: float) -> int:
        """Take note of a reject that may pass; return how many in a row the lane has had."""
        lane = self._lanes.get(project_id)
        if lane is None:
            return 0
        self._answered(lane, (sequence,))
        if lane.state is LaneState.OPEN:
            lane.state = LaneState.STALLED
            lane.stalls += 1
            lane.resume_at = resume_at
        self._touch(lane)
        return lane.stalls

    def gap(self, project_id: str, sequence: int, expected: int, resume_at: float) -> None:
        """Take note that the server wants an earlier batch first: resend once all is answered.

        After a stall this is the answer to everything behind the rejected batch. Raises
        `PositionLost` if the server wants a batch that it acked, or one that never was.
        """
        lane = self._lanes.get(project_id)
        if lane is None:
            return
        self._answered(lane, (sequence,))
        if lane.state is LaneState.OPEN:
            if not lane.unacked or not lane.acked < expected <= lane.unacked[-1].sequence:
                raise PositionLost(f"{project_id} is asked for sequence {expected}")
            lane.state = LaneState.STALLED
            lane.stalls += 1
            lane.resume_at = resume_at
        self._touch(lane)

    def answered(self, project_id: str, sequence: int) -> None:
        """Take note of a reject that ends its lane; `close_lane` follows."""
        lane = self._lanes.get(project_id)
        if lane is not None:
            self._answered(lane, (sequence,))

    def _touch(self, lane: Lane[T]) -> None:
        if lane.unsent or lane.state is LaneState.STALLED:
            self._dirty[lane.project_id] = None

    def _answered(self, lane: Lane[T], sequences: Iterable[int]) -> None:
        for sequence in sequences:
            size = lane.in_flight.pop(sequence, None)
            if size is None:
                continue
            self.batches_in_flight -= 1
            self.bytes_in_flight -= size
            for members in self._frames:
                if (lane.project_id, sequence) in members:
                    members.discard((lane.project_id, sequence))
                    break
        while self._frames and not self._frames[0]:
            self._frames.popleft()
        self._remove_if_over(lane)

    def _release(self, entry: Entry[T]) -> None:
        self.held_batches -= 1
        self.held_bytes -= entry.size
