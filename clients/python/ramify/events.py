"""What a watch yields: one frozen value per thing that a follower has to know. Pure.

`resume_revision` is what to store and echo as `after_revision`; 0 promises nothing (SEM 30).
"""

from dataclasses import dataclass
from typing import TypeAlias

from ramify.errors import RamifyError
from ramify.v1.mutation_pb2 import Delta
from ramify.v1.state_service_pb2 import (
    Bookmark,
    Resync,
    SnapshotChunk,
    WatchCreated,
    WatchProjectResponse,
)


@dataclass(frozen=True, slots=True)
class WatchConnected:
    """The server accepted the watch, for the first time or again."""

    created: WatchCreated
    resume_revision: int = 0


@dataclass(frozen=True, slots=True)
class WatchSnapshot:
    """The whole view at one revision, its chunks joined; forget what was known."""

    snapshot: SnapshotChunk
    resume_revision: int


@dataclass(frozen=True, slots=True)
class WatchDelta:
    """All changes of an interval of whole revisions, its fragments joined."""

    delta: Delta
    resume_revision: int


@dataclass(frozen=True, slots=True)
class WatchBookmark:
    """Nothing more up to here."""

    bookmark: Bookmark
    resume_revision: int


@dataclass(frozen=True, slots=True)
class WatchResync:
    """Forget the view; a snapshot follows. `cause` is set when the client asked for it itself."""

    resync: Resync
    cause: RamifyError | None = None
    resume_revision: int = 0


@dataclass(frozen=True, slots=True)
class WatchDisconnected:
    """The connection is gone; the watch tries again in `delay` seconds. Nothing is lost."""

    error: RamifyError
    attempt: int  #: failures in a row, from 1
    delay: float  #: seconds
    resume_revision: int = 0


WatchEvent: TypeAlias = (
    WatchConnected | WatchSnapshot | WatchDelta | WatchBookmark | WatchResync | WatchDisconnected
)


def to_message(event: WatchEvent) -> WatchProjectResponse | None:
    """Return the event as a message of the contract; None if it never came from a server."""
    response = WatchProjectResponse(resume_revision=event.resume_revision)
    if isinstance(event, WatchConnected):
        response.created.CopyFrom(event.created)
    elif isinstance(event, WatchSnapshot):
        response.snapshot.CopyFrom(event.snapshot)
    elif isinstance(event, WatchDelta):
        response.delta.CopyFrom(event.delta)
    elif isinstance(event, WatchBookmark):
        response.bookmark.CopyFrom(event.bookmark)
    elif isinstance(event, WatchResync):
        response.resync.CopyFrom(event.resync)
    else:
        return None
    return response
