"""Where a watch stands: what to ask for, and whether what arrives continues it. Pure.

The cursor holds the one thing that survives a reconnect: the last non-zero `resume_revision` with
the `project_uid` that gives it meaning (SEM 13, 30).
"""

from dataclasses import dataclass
from typing import Literal

from ramify.checksum import ViewChecksum
from ramify.compressed import ENCODINGS, read_compressed
from ramify.errors import (
    ProjectNotFoundError,
    RamifyError,
    ServerDrainingError,
    ViewDivergedError,
    WatchGapError,
)
from ramify.events import (
    WatchBookmark,
    WatchConnected,
    WatchDelta,
    WatchEvent,
    WatchResync,
    WatchSnapshot,
)
from ramify.v1.mutation_pb2 import Delta
from ramify.v1.project_pb2 import WatchPriority
from ramify.v1.state_service_pb2 import (
    ENTITY_KIND_NODE,
    WATCH_END_REASON_PROJECT_DELETED,
    Bookmark,
    Coalescing,
    Resync,
    SnapshotChunk,
    WatchCreated,
    WatchFilter,
    WatchMode,
    WatchProjectRequest,
    WatchProjectResponse,
)


@dataclass(frozen=True, slots=True)
class WatchStart:
    """Where a watch begins (SEM 30)."""

    kind: Literal["snapshot", "after_revision", "from_beginning", "head"]
    revision: int = 0  #: for `after_revision`: exclusive; echo what you have, never add one
    project_uid: str = ""  #: identity that gives `revision` its meaning, if known

    @classmethod
    def snapshot(cls) -> "WatchStart":
        """Begin with a snapshot of the present, then every change."""
        return cls("snapshot")

    @classmethod
    def after(cls, revision: int, project_uid: str = "") -> "WatchStart":
        """Begin with the first revision after this one."""
        return cls("after_revision", revision, project_uid)

    @classmethod
    def from_beginning(cls) -> "WatchStart":
        """Begin with revision 1."""
        return cls("from_beginning")

    @classmethod
    def head(cls) -> "WatchStart":
        """Begin with the next revision; nothing of the past is sent."""
        return cls("head")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """How a watch wants to be told; what is not chosen is left to the project and the service."""

    #: What a change carries: changed fields, whole entities, or only what has ended (SEM 24).
    mode: Literal["diff", "full", "terminal"] | None = None
    #: When changes of an entity may be joined to its latest value.
    coalescing: Literal["never", "behind", "always"] | None = None
    max_interval: float = 0.0  #: least seconds between messages with changes, at most 60
    priority: Literal["low", "normal", "high"] | None = None
    immediate: bool = False  #: ahead of every pace; few such watches are allowed
    compressed: bool = False  #: fewer bytes for more work; for slow networks

    def fill(self, request: WatchProjectRequest) -> None:
        """Put the choices into a request."""
        if self.mode is not None:
            request.mode = WatchMode.Value(f"WATCH_MODE_{self.mode.upper()}")
        if self.coalescing is not None:
            request.coalescing = Coalescing.Value(f"COALESCING_{self.coalescing.upper()}")
        if self.priority is not None:
            request.priority = WatchPriority.Value(f"WATCH_PRIORITY_{self.priority.upper()}")
        request.max_interval_ms = round(self.max_interval * 1_000)
        request.force_immediate = self.immediate
        if self.compressed:
            request.accept_encodings.extend(ENCODINGS)


class WatchCursor:
    """Turns messages of one logical watch into events and proves that none is missing.

    Owned by the watch. Intervals must join without gap or overlap, snapshot chunks must be
    numbered from 0, and where the whole view is known (the watch began with a snapshot or at the
    beginning) the checksum of each bookmark must be the one computed here. Anything else raises
    `WatchGapError` or `ViewDivergedError`; then `restart` asks for a snapshot.
    """

    def __init__(
        self,
        project_id: str,
        start: WatchStart,
        filter: WatchFilter | None = None,  # noqa: A002 - the contract's word
        fail_if_compacted: bool = False,
        bookmark_interval_ms: int = 0,
        options: WatchOptions | None = None,
    ) -> None:
        self._base = WatchProjectRequest(
            project_id=project_id,
            filter=filter,
            fail_if_compacted=fail_if_compacted,
            bookmark_interval_ms=bookmark_interval_ms,
        )
        (options or WatchOptions()).fill(self._base)
        self._start = start
        self._uid = start.project_uid
        #: Everything through this revision was delivered; None before that can be said.
        self._position = start.revision if start.kind in _POSITIONED else None
        self._chunks: list[SnapshotChunk] = []
        self._fragments: list[Delta] = []
        self._checksum = ViewChecksum() if start.kind == "from_beginning" else None
        kinds = filter.kinds if filter is not None else ()
        self._sees_nodes = not kinds or ENTITY_KIND_NODE in kinds

    @property
    def position(self) -> int | None:
        """Everything through this revision was delivered; None before that can be said."""
        return self._position

    @property
    def project_uid(self) -> str:
        """Identity of the project as the server last told it."""
        return self._uid

    def request(self) -> WatchProjectRequest:
        """Return what to ask for now, and drop what an earlier connection left incomplete."""
        self._chunks.clear()
        self._fragments.clear()
        request = WatchProjectRequest()
        request.CopyFrom(self._base)
        if self._position is not None and (self._uid or self._start.kind == "after_revision"):
            request.project_uid = self._uid
            request.after_revision = self._position
        elif self._start.kind == "from_beginning":
            request.from_beginning = True
        elif self._start.kind == "head":
            request.head = True
        else:
            request.snapshot = True
        return request

    def restart(self, cause: RamifyError) -> WatchResync:
        """Forget the position, so that the next request asks for a snapshot."""
        self._uid = ""
        self._forget()
        return WatchResync(Resync(), cause)

    def receive(self, response: WatchProjectResponse) -> WatchEvent | None:
        """Take one message; return an event, or None while something is still incomplete.

        Raises `WatchGapError` or `ViewDivergedError` if the message does not continue the watch,
        and `ServerDrainingError` or `ProjectNotFoundError` when the server ends it.
        """
        kind = response.WhichOneof("message")
        if kind == "compressed":
            return self.receive(read_compressed(response))
        if kind == "created":
            return self._created(response.created)
        if kind == "snapshot":
            return self._snapshot(response.snapshot, response.resume_revision)
        if kind == "delta":
            return self._delta(response.delta, response.resume_revision)
        if kind == "bookmark":
            return self._bookmark(response.bookmark)
        if kind == "resync":
            self._forget()
            return WatchResync(response.resync)
        if kind == "ended":
            if response.ended.reason == WATCH_END_REASON_PROJECT_DELETED:
                raise ProjectNotFoundError(f"project {self._base.project_id} was deleted")
            raise ServerDrainingError("the server ended the watch because it is stopping")
        return None  # a kind of message that is newer than this client

    def _forget(self) -> None:
        """Know nothing; after a break a snapshot is asked for, wherever the watch began."""
        self._start = WatchStart.snapshot()
        self._position = None
        self._checksum = None
        self._chunks.clear()
        self._fragments.clear()

    def _created(self, created: WatchCreated) -> WatchEvent:
        if self._uid and created.project_uid != self._uid:
            self._forget()  # a resync and a snapshot must follow
        elif self._start.kind == "head" and self._position is None:
            self._position = created.head_revision
        self._uid = created.project_uid
        return WatchConnected(created)

    def _snapshot(self, chunk: SnapshotChunk, resume_revision: int) -> WatchEvent | None:
        chunks = self._chunks
        if chunk.chunk != len(chunks) or (chunks and chunk.revision != chunks[0].revision):
            raise WatchGapError(
                f"chunk {chunk.chunk} of the snapshot of revision {chunk.revision} arrived "
                f"where chunk {len(chunks)} was due"
            )
        chunks.append(chunk)
        if not chunk.last:
            return None
        whole = chunks[0]
        for part in chunks[1:]:
            whole.nodes.extend(part.nodes)
            whole.commands.extend(part.commands)
            whole.reviews.extend(part.reviews)
        whole.chunk, whole.last = 0, True
        if chunk.HasField("checksum"):
            whole.checksum = chunk.checksum
        self._chunks = []
        self._position = resume_revision
        self._checksum = ViewChecksum()
        self._checksum.reset((node.node_id, node.version) for node in whole.nodes)
        if whole.HasField("checksum"):
            self._verify(whole.revision, whole.checksum)
        return WatchSnapshot(whole, resume_revision)

    def _delta(self, delta: Delta, resume_revision: int) -> WatchEvent | None:
        fragments = self._fragments
        expected = {self._next()}
        if fragments:  # one revision may be spread over fragments
            expected = {fragments[-1].last_revision, fragments[-1].last_revision + 1}
        if delta.first_revision not in expected or delta.last_revision < delta.first_revision:
            raise WatchGapError(
                f"a delta covers revisions {delta.first_revision} to {delta.last_revision} "
                f"where {min(expected)} was due",
                metadata={"expected_revision": str(min(expected))},
            )
        fragments.append(delta)
        if not resume_revision:
            return None
        whole = fragments[0]
        for part in fragments[1:]:
            known = {info.revision for info in whole.revisions}
            whole.revisions.extend(info for info in part.revisions if info.revision not in known)
            whole.changes.extend(part.changes)
        whole.last_revision = delta.last_revision
        self._fragments = []
        self._position = resume_revision
        self._track(whole)
        return WatchDelta(whole, resume_revision)

    def _bookmark(self, bookmark: Bookmark) -> WatchEvent:
        if bookmark.revision < self._next() - 1 or self._fragments:
            raise WatchGapError(
                f"bookmark {bookmark.revision} arrived where revision {self._next()} was due"
            )
        self._position = bookmark.revision
        if bookmark.HasField("checksum"):
            self._verify(bookmark.revision, bookmark.checksum)
        return WatchBookmark(bookmark, bookmark.revision)

    def _next(self) -> int:
        if self._position is None:
            raise WatchGapError("changes arrived where a snapshot was due")
        return self._position + 1

    def _track(self, delta: Delta) -> None:
        if self._checksum is None:
            return
        for change in delta.changes:
            if not change.HasField("node"):
                continue
            if change.node.WhichOneof("effect") == "removal":
                self._checksum.remove(change.node.node_id)
            else:
                self._checksum.set(change.node.node_id, change.node.version)

    def _verify(self, revision: int, checksum: int) -> None:
        if self._checksum is None or not self._sees_nodes or self._checksum.value == checksum:
            return
        raise ViewDivergedError(
            f"the nodes received up to revision {revision} give checksum "
            f"{self._checksum.value:016x}, the server has {checksum:016x}",
            metadata={"revision": str(revision)},
        )


_POSITIONED = frozenset({"after_revision", "from_beginning"})
