"""The service in process against a small model of it, over any row of calls, failures and crashes.

The model is a few dictionaries and knows nothing of overlays, segments or commits. A crash throws
away the memory of the service and opens the store again; the commit under way is lost or was
durable just before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ramify.v1.error_pb2 import ErrorReason
from ramify.v1.node_pb2 import NodeState
from ramify.v1.state_service_pb2 import (
    Ack,
    AcquireLeaseRequest,
    AcquireLeaseResponse,
    CommitBatchRequest,
    FlushProjectRequest,
    ForkProjectRequest,
    ReleaseLeaseRequest,
    StreamMutationsResponse,
)
from state_svc.app import build
from state_svc.config import load
from state_svc.errors import (
    BatchRejected,
    InvalidRequest,
    LeaseHeld,
    ProducerFenced,
    RevisionCompacted,
)
from state_svc.model.checksum import view_checksum
from state_svc.model.project import LiveProject
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.leases import LeaseRpcs
from state_svc.rpc.stream import StreamSessions
from state_svc.service import Service
from state_svc.store.base import Commit
from state_svc.store.memory import MemoryStore
from tests.support.bound import WAIT_SECONDS
from tests.support.embedded import Embedded
from tests.support.mutations import batch, create
from tests.support.pipe import Pipe
from tests.support.service_model import CONFLICT, Change, ModelNode, ModelProject, Outcome, expect
from tests.support.view import checksum

_T = TypeVar("_T")

_GAP = ErrorReason.ERROR_REASON_SEQUENCE_GAP
_FENCED = ErrorReason.ERROR_REASON_PRODUCER_FENCED
_AWAY = ErrorReason.ERROR_REASON_STORE_UNAVAILABLE

_PROJECTS = ["p", "q"]
_PRODUCERS = ["one", "two"]
_HOLDERS = ["ann", "bob"]

_CHANGES = st.tuples(
    st.sampled_from(["create"] * 3 + ["move"] * 4 + ["note", "note", "expect", "delete"]),
    st.integers(0, 7),
    st.integers(0, 15),
)
_BATCHES = st.lists(_CHANGES, min_size=1, max_size=3)
#: How far from the next sequence, what, with which lease epoch, and how the commit fails.
_SENT = st.tuples(
    st.sampled_from([0] * 7 + [1, -1, -2, -100]),
    _BATCHES,
    st.sampled_from(["right", "right", "right", "none", "old"]),
    st.sampled_from(["", "", "", "", "before", "after"]),
)
#: What, the id of the request, and how far the expected revision is ahead, if there is one.
_CALLED = st.tuples(
    _BATCHES,
    st.sampled_from(["", "r1", "r2", "r3", "r4"]),
    st.sampled_from([None, None, None, 0, 0, 1]),
)

pytestmark = pytest.mark.timeout(300)  # some 15 s of processor time


class _HeldStore(MemoryStore):
    """Lets a test crash the service while a commit is being written."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def commit(self, commit: Commit) -> None:
        self.entered.set()
        await self.open.wait()
        await super().commit(commit)


class ServiceMachine(RuleBasedStateMachine):
    """Does the same to the service and to the model, and compares after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.projects: dict[str, ModelProject] = {}
        self.epochs = dict.fromkeys(_PRODUCERS, 0)
        self.pipes: dict[str, Pipe] = {}
        self.requests: dict[str, tuple[str, int]] = {}

    def do(self, work: Awaitable[_T]) -> _T:
        async def run() -> _T:
            async with asyncio.timeout(WAIT_SECONDS):
                return await work

        return self.loop.run_until_complete(run())

    # The service

    @initialize()
    def begin(self) -> None:
        async def make() -> _HeldStore:
            return _HeldStore()

        self.store = self.do(make())
        self.do(self._start())
        for project_id in _PROJECTS:
            self.do(self.calls.create(project_id))
            self.projects[project_id] = ModelProject(history={1: {}})

    async def _start(self) -> None:
        self.service: Service = await build(self.store, load([], {}))
        self.calls = Embedded(self.service)
        self.sessions = StreamSessions(self.service)
        self.tasks = [
            asyncio.create_task(self.service.committer.run()),
            asyncio.create_task(self.service.snapshots.run()),
        ]

    async def _stop(self) -> None:
        for pipe in self.pipes.values():
            await pipe.cut()
        self.pipes.clear()
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.do(self._stop())
        self.loop.close()

    async def _live(self, project_id: str) -> LiveProject:
        return await self.service.live(project_id)

    async def _pipe(self, producer: str) -> Pipe:
        pipe = self.pipes.get(producer)
        if pipe is None:
            self.epochs[producer] = self.epochs[producer] or 1
            pipe = Pipe()
            await pipe.open(self.service, self.sessions, producer, self.epochs[producer])
            self.pipes[producer] = pipe
        return pipe

    # Streams

    @rule(
        project_id=st.sampled_from(_PROJECTS),
        producer=st.sampled_from(_PRODUCERS),
        sent=st.lists(_SENT, min_size=1, max_size=8),
    )
    def stream(
        self,
        project_id: str,
        producer: str,
        sent: list[tuple[int, list[Change], str, str]],
    ) -> None:
        """Send batches: the next, a repeat or one that skips some."""
        for offset, changes, lease, fail in sent:
            self._send(project_id, producer, offset, changes, lease, fail)

    def _send(
        self,
        project_id: str,
        producer: str,
        offset: int,
        changes: list[Change],
        lease: str,
        fail: str,
    ) -> None:
        model = self.projects[project_id]
        pipe = self.do(self._pipe(producer))
        revisions = self._revisions(model, producer)
        sequence = max(0, len(revisions) + 1 + offset)
        outcome = expect(model, changes)
        lease_epoch = self._lease_epoch(model, lease)
        fenced = lease_epoch != (model.lease_epoch if model.holder else 0)
        accepted = sequence == len(revisions) + 1 and not fenced and outcome.refusal is None
        self.store.fail_next = fail if accepted and fail else None
        pipe.send(batch(project_id, sequence, *outcome.mutations, lease_epoch=lease_epoch))
        answer = self.do(pipe.answer())
        if sequence == 0 or sequence > len(revisions) + 1:
            self._assert_rejected(answer, sequence, _GAP)
            expected = answer.reject.error.metadata["expected_sequence"]
            assert expected == str(len(revisions) + 1)
        elif sequence <= len(revisions):
            self._assert_acked(answer, sequence, revisions[sequence - 1])
        elif fenced:
            self._assert_rejected(answer, sequence, _FENCED)
        elif outcome.refusal is not None:
            index, reason = outcome.refusal
            self._assert_rejected(answer, sequence, reason)
            assert answer.reject.error.violations[0].index == index
        elif fail == "before":
            self._assert_rejected(answer, sequence, _AWAY)
        else:
            self._take(model, outcome)
            revisions.append(model.revision)
            model.producers[producer] = (self.epochs[producer], revisions)
            self._assert_acked(answer, sequence, model.revision)

    def _revisions(self, model: ModelProject, producer: str) -> list[int]:
        epoch, revisions = model.producers.get(producer, (0, []))
        return revisions if epoch == self.epochs[producer] else []

    def _lease_epoch(self, model: ModelProject, lease: str) -> int:
        right = model.lease_epoch if model.holder else 0
        return {"right": right, "none": 0, "old": max(0, model.lease_epoch - 1)}[lease]

    def _take(self, model: ModelProject, outcome: Outcome) -> None:
        model.nodes, model.used = outcome.nodes, outcome.used
        model.seal()

    def _assert_acked(self, answer: StreamMutationsResponse, sequence: int, revision: int) -> None:
        (ack,) = answer.acks.acks
        assert ack == Ack(
            project_id=ack.project_id,
            first_sequence=sequence,
            acked_sequence=sequence,
            first_revision=revision,
            revision=revision,
            revision_known=True,
        )

    def _assert_rejected(
        self, answer: StreamMutationsResponse, sequence: int, reason: ErrorReason.ValueType
    ) -> None:
        assert answer.HasField("reject"), answer
        assert answer.reject.sequence == sequence
        assert answer.reject.error.reason == reason

    @rule(producer=st.sampled_from(_PRODUCERS), step=st.sampled_from([1, 1, 7, 0, -1]))
    def reconnect(self, producer: str, step: int) -> None:
        """Open again: with a newer epoch, the same, or an older one, which is refused."""
        pipe = self.pipes.pop(producer, None)
        epoch = max(1, self.epochs[producer] + step)
        if epoch < self.epochs[producer]:
            with pytest.raises(ProducerFenced) as caught:
                self.do(Pipe().open(self.service, self.sessions, producer, epoch))
            assert caught.value.fields["current_epoch"] == str(self.epochs[producer])
        else:
            newer = epoch > self.epochs[producer]
            self.epochs[producer] = epoch
            self.do(self._pipe(producer))
            if pipe is not None and newer:
                assert self.do(pipe.answer()).fenced.current_epoch == epoch
        if pipe is not None:
            self.do(pipe.cut())

    @rule(producer=st.sampled_from(_PRODUCERS), project_id=st.sampled_from(_PROJECTS))
    def ask(self, producer: str, project_id: str) -> None:
        """Ask where the producer stands, and whether anything is pending."""
        model = self.projects[project_id]
        pipe = self.do(self._pipe(producer))
        pipe.attach(project_id)
        attached = self.do(pipe.answer()).attached
        assert attached.last_sequence == len(self._revisions(model, producer))
        assert attached.revision == model.revision
        request = FlushProjectRequest(project_id=project_id)
        flushed = self.do(self.calls.projects.flush_project(request))
        assert flushed.revision == model.revision

    # Unary calls

    @rule(project_id=st.sampled_from(_PROJECTS), sent=st.lists(_CALLED, min_size=1, max_size=4))
    def commit_batch(
        self, project_id: str, sent: list[tuple[list[Change], str, int | None]]
    ) -> None:
        """Write without a stream; a repeated request gets its first answer."""
        for changes, request_id, ahead in sent:
            self._call(project_id, changes, request_id, ahead)

    def _call(
        self,
        project_id: str,
        changes: list[Change],
        request_id: str,
        ahead: int | None,
    ) -> None:
        model = self.projects[project_id]
        outcome = expect(model, changes)
        request = CommitBatchRequest(
            project_id=project_id,
            mutations=outcome.mutations,
            request_id=request_id,
            lease_epoch=model.lease_epoch if model.holder else 0,
            expected_revision=None if ahead is None else model.revision + ahead,
        )
        call = self.calls.projects.commit_batch(request)
        if request_id in self.requests:
            owner, first = self.requests[request_id]
            if owner == project_id:
                assert self.do(call).revision == first
            else:
                with pytest.raises(InvalidRequest):
                    self.do(call)
            return
        if ahead or outcome.refusal is not None:
            with pytest.raises(BatchRejected) as caught:
                self.do(call)
            found = (caught.value.violations[0].index, caught.value.reason)
            assert found == ((0, CONFLICT) if ahead else outcome.refusal)
            return
        revision = self.do(call).revision
        self._take(model, outcome)
        assert revision == model.revision
        if request_id:
            self.requests[request_id] = project_id, revision

    @rule(
        project_id=st.sampled_from(_PROJECTS),
        holder=st.sampled_from(_HOLDERS),
        take=st.booleans(),
    )
    def lease(self, project_id: str, holder: str, take: bool) -> None:
        """Claim a project or give it back."""
        (self._acquire if take else self._release)(project_id, holder)

    def _acquire(self, project_id: str, holder: str) -> None:
        model = self.projects[project_id]
        request = AcquireLeaseRequest(project_id=project_id, holder=holder)
        try:
            granted: AcquireLeaseResponse = self.do(LeaseRpcs(self.service).acquire_lease(request))
        except LeaseHeld:
            assert model.holder not in ("", holder)
            return
        assert model.holder in ("", holder)
        if not model.holder:
            model.holder, model.lease_epoch = holder, model.lease_epoch + 1
            model.seal()
        assert (granted.lease_epoch, granted.revision) == (model.lease_epoch, model.revision)

    def _release(self, project_id: str, holder: str) -> None:
        model = self.projects[project_id]
        request = ReleaseLeaseRequest(
            project_id=project_id, holder=holder, lease_epoch=model.lease_epoch
        )
        released = self.do(LeaseRpcs(self.service).release_lease(request)).released
        assert released == (bool(model.holder) and model.holder == holder)
        if released:
            model.holder = ""
            model.seal()

    # The past

    @rule(project_id=st.sampled_from(_PROJECTS), share=st.floats(0, 1))
    def look_back(self, project_id: str, share: float) -> None:
        """Read an earlier revision."""
        model = self.projects[project_id]
        revision = 1 + round(share * (model.revision - 1))
        live = self.do(self._live(project_id))
        try:
            view = self.do(self.service.past.view_at(live, revision))
        except RevisionCompacted:
            assert revision < live.view.compacted
            return
        versions = {k: node.version for k, node in view.nodes.items()}
        assert versions == {k: n.version for k, n in model.history[revision].items()}

    @rule(project_id=st.sampled_from(_PROJECTS), what=st.sampled_from(["", "", "", "c", "f"]))
    def keep(self, project_id: str, what: str) -> None:
        """Take a snapshot, drop what is before it, or begin another project there."""
        if what == "c":
            self._compact(project_id)
        elif what == "f" and len(self.projects) < 4:
            self._fork(project_id)
        else:
            self._snapshot(project_id)

    def _snapshot(self, project_id: str) -> None:
        live = self.do(self._live(project_id))
        taken = self.do(self.service.snapshots.take(live))
        assert taken == self.projects[project_id].revision

    def _compact(self, project_id: str) -> None:
        live = self.do(self._live(project_id))
        model = self.projects[project_id]
        assert self.do(self.service.snapshots.compact(live, model.revision)) == model.revision
        assert live.view.compacted == model.revision

    def _fork(self, project_id: str) -> None:
        model, name = self.projects[project_id], f"fork-{len(self.projects)}"
        request = ForkProjectRequest(project_id=project_id, new_project_id=name)
        forked = self.do(HistoryRpcs(self.service).fork_project(request)).project
        assert forked.revision == 1
        self.projects[name] = ModelProject(
            nodes=dict(model.nodes), used=set(model.used), history={1: dict(model.nodes)}
        )

    # Crashes

    @rule()
    def crash(self) -> None:
        """Throw away the memory of the service."""
        self.do(self._stop())
        self.do(self._start())

    @rule(
        project_id=st.sampled_from(_PROJECTS),
        producer=st.sampled_from(_PRODUCERS),
        notes=st.lists(st.integers(0, 100), min_size=1, max_size=3),
        durable=st.booleans(),
    )
    def crash_in_a_commit(
        self, project_id: str, producer: str, notes: list[int], durable: bool
    ) -> None:
        """Crash while batches are being written; then the producer sends them all again."""
        model = self.projects[project_id]
        pipe = self.do(self._pipe(producer))
        revisions = self._revisions(model, producer)
        lease_epoch = self._lease_epoch(model, "right")
        sent = []
        for number, note in enumerate(notes):
            node_id = f"crash-{model.revision}-{number}-{note}-{durable:d}"
            mutation = create(node_id)
            if node_id in model.used:
                return
            sequence = len(revisions) + 1 + number
            sent.append((node_id, batch(project_id, sequence, mutation, lease_epoch=lease_epoch)))

        async def crash() -> None:
            self.store.entered.clear()
            self.store.open.clear()
            pipe.send(*(each for _, each in sent))
            await self.store.entered.wait()
            if durable:
                self.store.open.set()
                await asyncio.sleep(0)
            await self._stop()
            self.store.open.set()
            await self._start()

        self.do(crash())
        again = self.do(self._pipe(producer))
        again.attach(project_id)
        position = self.do(again.answer()).attached.last_sequence
        assert len(revisions) <= position <= len(revisions) + len(sent)
        again.send(*(each for _, each in sent))
        acked: list[int] = []
        while len(acked) < len(sent):
            for ack in self.do(again.answer()).acks.acks:
                assert ack.first_sequence == len(revisions) + 1 + len(acked)
                acked.extend(range(ack.first_revision, ack.revision + 1))
        for (node_id, _), revision in zip(sent, acked, strict=True):
            model.nodes[node_id] = ModelNode("", 0)
            model.used.add(node_id)
            assert model.seal() == revision
        model.producers[producer] = (self.epochs[producer], revisions + acked)

    # What holds after each step

    @invariant()
    def the_service_is_as_the_model(self) -> None:
        for project_id, model in self.projects.items():
            live = self.do(self._live(project_id))
            view = live.view
            assert (live.revision, view.revision) == (model.revision, model.revision)
            assert not live.has_pending
            found = {
                node_id: ModelNode(
                    node.spec.parent,
                    node.spec.layer,
                    NodeState.Name(node.state).removeprefix("NODE_STATE_"),  # type: ignore[arg-type]
                    node.version,
                    node.to_node().waiting_on,
                )
                for node_id, node in view.nodes.items()
            }
            assert found == model.nodes
            assert set(view.nodes) | view.deleted == model.used
            assert sum(view.counts.values()) == len(model.nodes)
            assert (view.entity.lease.holder, view.entity.lease.lease_epoch) == (
                model.holder,
                model.lease_epoch,
            )
            assert view_checksum(view.nodes.values()) == checksum(
                (k, n.version) for k, n in model.nodes.items()
            )


TestService = ServiceMachine.TestCase
TestService.settings = settings(max_examples=60, stateful_step_count=50)
