"""A client that applies what a watch sends has the committed view at every revision it is promised.

From any start, through any filter, in any mode, however much is joined and however slowly it
reads, whatever is compacted meanwhile (SEM 24, 30, 31). The client is the SDK's view, which also
refuses gaps and wrong checksums.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ramify.compressed import read_compressed
from ramify.v1.mutation_pb2 import Delta, Mutation
from ramify.v1.node_pb2 import Node, TaskType
from ramify.v1.project_pb2 import Project
from ramify.v1.state_service_pb2 import (
    Coalescing,
    EntityKind,
    SnapshotChunk,
    WatchFilter,
    WatchMode,
    WatchProjectRequest,
    WatchProjectResponse,
)
from ramify.view import View, checksum_in
from state_svc.codec import watch_frame
from state_svc.codec.project import encode_project
from state_svc.codec.segment import encode_segment
from state_svc.errors import BatchRejected
from state_svc.history.snapshots import Snapshotter
from state_svc.metrics import ServiceMetrics
from state_svc.model import transitions
from state_svc.model.apply import apply_batch
from state_svc.model.entity import create_project
from state_svc.model.node import LiveNode
from state_svc.model.project import Applied, LiveProject
from state_svc.model.project import View as Committed
from state_svc.model.storing import Storing, StoringRules
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from state_svc.watch import feed, permit, snapshot
from state_svc.watch import hub as hub_module
from state_svc.watch.hub import WatchHub
from state_svc.watch.session import WatchSession
from tests.support.bound import WAIT_SECONDS
from tests.support.mutations import PENDING, READY, RUNNING, change_project, create, delete, patch
from tests.support.view import checksum

_NODE = EntityKind.ENTITY_KIND_NODE
_PROJECT = EntityKind.ENTITY_KIND_PROJECT
_KINDS = EntityKind.values()[1:]
_STATES = [PENDING, READY, RUNNING]
_TASKS = [TaskType.TASK_TYPE_SEARCH, TaskType.TASK_TYPE_WRITE]
_AGENTS = ["", "ann", "bob"]
_FIELDS = ["state", "agent_name", "waiting_on", "retry_count"]

#: (what, which node, which value); meaning is given by the project at that time.
Change = tuple[str, int, int]
Batch = list[Change]

_CHANGES = st.tuples(
    st.sampled_from(["create", "create", "move", "move", "agent", "text", "delete", "project"]),
    st.integers(0, 7),
    st.integers(0, 5),
)
_BATCHES = st.lists(_CHANGES, min_size=1, max_size=3)
_COMMITS = st.lists(_BATCHES, min_size=1, max_size=3)


@st.composite
def _filters(draw: st.DrawFn) -> WatchFilter:
    found = WatchFilter()
    conditions = [
        "states",
        "states",
        "task_types",
        "agent_names",
        "subtree",
        "depth",
        "kinds",
        "fields",
    ]
    for condition in draw(st.lists(st.sampled_from(conditions), max_size=2, unique=True)):
        if condition == "states":
            found.states.extend(draw(st.lists(st.sampled_from(_STATES), min_size=1, unique=True)))
        elif condition == "task_types":
            found.task_types.append(draw(st.sampled_from(_TASKS)))
        elif condition == "agent_names":
            found.agent_names.append(draw(st.sampled_from(_AGENTS)))
        elif condition == "subtree":
            found.subtree_root_node_id = f"n{draw(st.integers(0, 3))}"
        elif condition == "depth":
            found.max_depth = draw(st.integers(0, 2))
        elif condition == "fields":
            found.node_fields.extend(draw(st.lists(st.sampled_from(_FIELDS), min_size=1)))
        else:
            found.kinds.extend(draw(st.lists(st.sampled_from(_KINDS), min_size=1, unique=True)))
    return found


_STARTS = st.sampled_from(["snapshot", "from_beginning", "head", "after"])
_STYLES = st.builds(
    WatchProjectRequest,
    mode=st.sampled_from(WatchMode.values()),
    coalescing=st.sampled_from(Coalescing.values()),
    accept_encodings=st.sampled_from([[], ["zstd"], ["br", "zstd"]]),
    force_immediate=st.sampled_from([False, False, False, True]),
)
_STEPS = st.one_of(
    st.tuples(st.just("commit"), _COMMITS),
    st.tuples(st.just("commit"), _COMMITS),
    st.tuples(st.just("open"), st.tuples(_STARTS, st.floats(0, 1), _filters(), _STYLES)),
    st.tuples(st.just("commit"), _COMMITS),
    st.tuples(st.just("commit"), _COMMITS),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 2), st.integers(1, 4))),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 2), st.integers(1, 4))),
    st.tuples(st.sampled_from(["compact", "pause", "pause", "pause"]), st.none()),
)


@dataclass(frozen=True)
class _Moment:
    """The committed project at one revision."""

    entity: Project
    nodes: Mapping[str, LiveNode]

    def shown(self, request: WatchProjectRequest) -> dict[str, Node]:
        """Return what a filter shows, by the words of the contract."""
        view_filter = request.filter
        kinds = view_filter.kinds or [_NODE, _PROJECT]
        if _NODE not in kinds:
            return {}
        ended = request.mode == WatchMode.WATCH_MODE_TERMINAL
        return {
            key: live.to_node()
            for key, live in self.nodes.items()
            if self._matches(live, view_filter)
            and (not ended or live.state in transitions.NODE.terminal)
        }

    def _matches(self, live: LiveNode, view_filter: WatchFilter) -> bool:
        node = live.to_node()
        if view_filter.states and node.state not in view_filter.states:
            return False
        if view_filter.task_types and node.task_type not in view_filter.task_types:
            return False
        if view_filter.agent_names and node.agent_name not in view_filter.agent_names:
            return False
        root = view_filter.subtree_root_node_id
        depth = node.layer
        if root:
            line = [node.node_id]
            while parent := self.nodes[line[-1]].spec.parent:
                line.append(parent)
            if root not in line:
                return False
            depth = line.index(root)
        return not view_filter.HasField("max_depth") or depth <= view_filter.max_depth


class _Server:
    """A project, its store and its watchers: what the commit loop drives, without the loop."""

    def __init__(self) -> None:
        entity = Project(project_id="p", project_uid="uid", goal="prove watches")
        self.project = LiveProject(Committed(entity=entity))
        self.store = MemoryStore()
        self.hub = WatchHub(ServiceMetrics(), frame_budget=0.0, max_watchers=100)
        self.moments: dict[int, _Moment] = {0: _Moment(Project(), {})}
        self._snapshotter = Snapshotter(
            self.store, revisions=1, size=1, rules=StoringRules(Storing())
        )
        self._made = 0

    async def start(self) -> None:
        await self.store.commit(Commit(projects=[encode_project(self.project.entity)]))
        applied = create_project(self.project.entity, micros=5, actor="me")
        self.project.accept(applied)
        await self._make_durable([applied])

    async def commit(self, batches: list[Batch]) -> None:
        run: list[Applied] = []
        for changes in batches:
            mutations = [self._mutation(change) for change in changes]
            try:
                applied = apply_batch(self.project, mutations, micros=self.project.revision * 10)
            except BatchRejected:
                continue
            self.project.accept(applied)
            run.append(applied)
        if run:
            await self._make_durable(run)

    async def _make_durable(self, run: list[Applied]) -> None:
        record = encode_segment(self.project.uid, run, 200).record
        await self.store.commit(Commit(segments=[record]))
        view = self.project.view
        for applied in run:
            self.project.promote(applied)
            self.moments[applied.revision] = _Moment(view.entity, dict(view.nodes))
        self.hub.notify(self.project, run)

    async def compact(self) -> None:
        revision = await self._snapshotter.take(self.project)
        self.project.view.compacted = revision
        await self.store.compact(self.project.uid, revision)

    def _mutation(self, change: Change) -> Mutation:
        what, which, value = change
        ids = [node.spec.node_id for node in self.project.all_nodes()]
        node_id = ids[which % len(ids)] if ids else "n0"
        if what == "create" or not ids:
            node_id, self._made = f"n{self._made}", self._made + 1
            parent = self.project.node(ids[which]) if which < len(ids) else None
            place = (parent.spec.node_id, parent.spec.layer + 1) if parent else ("", 0)
            return create(node_id, *place, task_type=_TASKS[value % 2])
        if what == "move":
            live = self.project.node(node_id)
            assert live is not None
            legal = sorted(transitions.NODE.to[live.state]) or [live.state]
            return patch(node_id, state=legal[value % len(legal)])
        if what == "agent":
            return patch(node_id, agent_name=_AGENTS[value % len(_AGENTS)])
        if what == "text":
            return patch(node_id, waiting_on="x" * value, retry_count=value)
        if what == "delete":
            return delete(node_id)
        return change_project(label_upserts={"k": str(value)})


@dataclass
class _Client:
    """Applies messages, and after each promise compares with what was committed there."""

    server: _Server
    request: WatchProjectRequest
    messages: AsyncIterator[bytes]
    view: View = field(default_factory=View)
    snapshot: SnapshotChunk = field(default_factory=SnapshotChunk)

    async def read(self) -> WatchProjectResponse:
        async with asyncio.timeout(WAIT_SECONDS):
            message = WatchProjectResponse.FromString(await anext(self.messages))
        if message.HasField("compressed"):
            assert self.request.accept_encodings
            message = read_compressed(message)
        kind = message.WhichOneof("message")
        if kind == "resync":
            self.view.clear()
        elif kind == "snapshot":
            self._add_chunk(message.snapshot)
        elif kind == "delta":
            assert message.resume_revision == message.delta.last_revision
            self._check_delta(message.delta)
            self.view.apply_delta(message.delta)
        elif kind == "bookmark":
            assert message.resume_revision == message.bookmark.revision
            self.view.apply_bookmark(message.bookmark.revision, checksum_in(message.bookmark))
        else:
            assert kind == "created"
            return message
        if message.resume_revision:
            assert self.view.revision == message.resume_revision
            self._check()
        return message

    def _add_chunk(self, chunk: SnapshotChunk) -> None:
        if not chunk.chunk:
            self.snapshot = SnapshotChunk()
        assert chunk.chunk == 0 or chunk.revision == self.snapshot.revision
        self.snapshot.MergeFrom(chunk)
        if chunk.last:
            self.view.apply_snapshot(self.snapshot)

    def _check_delta(self, delta: Delta) -> None:
        if delta.coalesced:
            assert self.request.coalescing != Coalescing.COALESCING_NEVER
            keys = [c.node.node_id or c.WhichOneof("entity") for c in delta.changes]
            assert len(keys) == len(set(keys)), "one change per entity"
        for change in delta.changes:
            if self.request.mode == WatchMode.WATCH_MODE_FULL and not change.node.removal:
                assert change.node.HasField("node") or change.project.HasField("project")

    def _check(self) -> None:
        moment = self.server.moments[self.view.revision]
        shown = moment.shown(self.request)
        if self.request.filter.node_fields:
            fields = [*self.request.filter.node_fields, "node_id"]
            assert _only(fields, self.view.nodes) == _only(fields, shown)
            return
        assert dict(self.view.nodes) == shown
        assert self.view.checksum == checksum((n.node_id, n.version) for n in shown.values())
        if _PROJECT not in (self.request.filter.kinds or [_PROJECT]):
            return
        if self.request.mode != WatchMode.WATCH_MODE_TERMINAL or (
            moment.entity.state in transitions.PROJECT.terminal
        ):
            assert self.view.project == moment.entity


def _only(fields: list[str], nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Return nodes with some fields; those of a view must not have any other but the stamps."""
    found = {}
    for key, node in nodes.items():
        found[key] = kept = Node()
        kept.CopyFrom(node)
        for known, _ in node.ListFields():
            if known.name not in fields:
                kept.ClearField(known.name)  # type: ignore[arg-type]
    return found


async def _open(
    server: _Server,
    start: str,
    share: float,
    view_filter: WatchFilter,
    style: WatchProjectRequest,
) -> _Client:
    request = WatchProjectRequest(project_id="p", filter=view_filter, bookmark_interval_ms=1)
    request.MergeFrom(style)
    head, known = server.project.view.revision, 0
    if start == "after":
        known = request.after_revision = round(share * head)
    elif start == "head":
        request.head, known = True, head
    elif start == "from_beginning":
        request.from_beginning = True
    session = WatchSession(server.hub, server.store, server.project, request)
    client = _Client(server, request, session.messages())
    if known:
        # What such a client has kept from before.
        moment = server.moments[known]
        shown = moment.shown(request)
        total = checksum((n.node_id, n.version) for n in shown.values())
        seen = SnapshotChunk(revision=known, nodes=shown.values(), checksum=total)
        seen.project.CopyFrom(moment.entity)
        client.view.apply_snapshot(seen)
    assert (await client.read()).created.head_revision == head
    return client


async def _read(clients: list[_Client], which: int, count: int) -> None:
    for _ in range(count):
        await clients[which % len(clients)].read()


async def _run(steps: list[tuple[str, object]]) -> None:
    server = _Server()
    await server.start()
    clients: list[_Client] = []
    for what, how in steps:
        if what == "commit":
            await server.commit(how)  # type: ignore[arg-type]
        elif what == "compact":
            await server.compact()
        elif what == "open" and len(clients) < 3:
            clients.append(await _open(server, *how))  # type: ignore[misc]
        elif what == "read" and clients:
            await _read(clients, *how)  # type: ignore[misc]
    head = server.project.view.revision
    for client in clients:
        while True:
            message = await client.read()
            if message.HasField("bookmark") and message.bookmark.revision == head:
                break
        await client.messages.aclose()  # type: ignore[attr-defined]
    assert server.hub.watcher_count == 0


@given(st.lists(_COMMITS, min_size=3, max_size=3), st.lists(_STEPS, min_size=10, max_size=40))
@settings(max_examples=120)
def test_a_watch_from_anywhere_in_any_manner_gives_the_committed_view(
    before: list[list[Batch]], steps: list[tuple[str, object]]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(feed, "MAX_FEED_BYTES", 3_000)  # so that a slow reader loses its place
        patched.setattr(snapshot, "MAX_FRAME_BYTES", 300)
        patched.setattr(snapshot, "PIECE_NODES", 2)
        patched.setattr(watch_frame, "_THRESHOLD", 50)
        patched.setattr(permit, "STALL_SECONDS", 0.0)  # so that it loses its permit, too
        patched.setattr(hub_module, "MAX_REPLAYS", 1)
        asyncio.run(_run([*(("commit", batches) for batches in before), *steps]))
