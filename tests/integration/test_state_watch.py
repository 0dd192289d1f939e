"""Watch guarantees by name, on the real service over the wire."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack

import grpc
import pytest

from ramify.v1.mutation_pb2 import Change, Mutation, Removal
from ramify.v1.node_pb2 import NodeState
from ramify.v1.state_service_pb2 import (
    CommitBatchRequest,
    EntityKind,
    ResyncReason,
    WatchEndReason,
    WatchFilter,
    WatchProjectRequest,
)
from tests.support.mutations import (
    DONE,
    FAILED,
    NEEDS_REPLAN,
    READY,
    RUNNING,
    batch,
    change_project,
    create,
    delete,
    order_cancel,
    patch,
)
from tests.support.state_process import StateProcess
from tests.support.view import NodeView
from tests.support.watch import RawWatch, WatchLog
from tests.support.wire import SMALL_WINDOW, Wire, connect, eventually, refusal

Start = Callable[..., StateProcess]

ROUNDS = 40


async def random_life(wire: Wire, project_id: str, rounds: int = ROUNDS, seed: int = 1) -> int:
    """Write a project's life of many kinds of revision; return the last one."""
    chance = random.Random(seed)
    await wire.commit(project_id, create("root", state=READY))
    states: dict[str, NodeState.ValueType] = {}
    moves = {
        READY: [RUNNING, FAILED],
        RUNNING: [DONE, FAILED],
        DONE: [NEEDS_REPLAN],
        FAILED: [READY, NEEDS_REPLAN],
        NEEDS_REPLAN: [READY, RUNNING],
    }
    async with wire.producer() as producer:
        sequence = 0
        for at in range(rounds):
            mutations: list[Mutation] = []
            for index in range(chance.choice([0, 1, 2, 3, 4])):
                if len(states) < 4 or chance.random() < 0.3:
                    node_id = f"n{at}-{index}"
                    mutations.append(create(node_id, "root", state=READY, agent_name="first"))
                    states[node_id] = READY
                else:
                    node_id = chance.choice(sorted(states))
                    state = chance.choice(moves[states[node_id]])
                    states[node_id] = state
                    aux = {"at": {"number_value": at}}
                    mutations.append(patch(node_id, state=state, aux_upserts=aux))
                    if chance.random() < 0.3:
                        agent = chance.choice(["first", "second"])
                        mutations.append(patch(node_id, agent_name=agent, output_summary=f"{at}"))
            if states and chance.random() < 0.1:
                node_id = chance.choice(sorted(states))
                del states[node_id]
                mutations.append(delete(node_id))
            if chance.random() < 0.1:
                mutations.append(change_project(label_upserts={"at": str(at)}))
            if not mutations or chance.random() < 0.1:
                mutations.append(patch("root", goal="goal of root"))  # no effect (SEM 6)
            sequence += 1
            # Without waiting for each ack, so that commits hold several revisions.
            await producer.send(batch(project_id, sequence, *mutations))
        return await producer.acked(project_id, sequence)


def flat(log: WatchLog) -> list[tuple[int, int, bytes]]:
    """Return every change a watcher was told, in order, to compare."""
    return [
        (revision, change.index, change.SerializeToString(deterministic=True))
        for revision, changes in log.changes.items()
        for change in changes
    ]


async def view_of(wire: Wire, project_id: str) -> dict[str, bytes]:
    """Return the nodes as ListNodes shows them, to compare."""
    return as_bytes(NodeView(await wire.nodes(project_id)))


def as_bytes(view: NodeView | None) -> dict[str, bytes]:
    """Return a view to compare."""
    assert view is not None
    return {key: n.SerializeToString(deterministic=True) for key, n in view.nodes.items()}


async def whole_log(wire: Wire, project_id: str, revision: int) -> WatchLog:
    """Return everything from the beginning through a revision."""
    async with wire.watch(project_id, from_beginning=True) as watch:
        return await watch.through(revision)


async def test_a_watch_is_ordered_and_unique_and_reliable(shared_wire: Wire) -> None:
    """Live watchers and late ones are told the same changes, in one order, each once."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, from_beginning=True) as live:
        await live.started()
        last = await random_life(wire, project_id)
        await live.through(last)
    late = await whole_log(wire, project_id, last)
    assert flat(live.log) == flat(late)
    assert late.announced == last == (await wire.project(project_id)).revision
    assert as_bytes(live.log.view) == as_bytes(late.view) == await view_of(wire, project_id)


async def test_a_watch_is_atomic(shared_wire: Wire) -> None:
    """Every message ends between revisions: the pair that each batch changes stays equal."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("left"), create("right"))
    views = 0
    async with wire.watch(project_id, snapshot=True) as watch, wire.producer() as producer:
        await watch.through(2)
        for sequence in range(1, 201):
            pair = [patch(n, output_summary=str(sequence)) for n in ("left", "right")]
            await producer.send(batch(project_id, sequence, *pair))
        await producer.acked(project_id, 200)
        log = await watch.through(202)
    replayed = NodeView()
    for message in log.messages:
        for node in message.snapshot.nodes:
            replayed.add(node)
        replayed.apply(message.delta.changes, message.delta.revisions)
        if message.resume_revision:
            left, right = replayed.nodes["left"], replayed.nodes["right"]
            assert left.output_summary == right.output_summary
            views += 1
    assert views > 1


async def test_a_watch_resumes_at_every_revision(shared_wire: Wire) -> None:
    """From any resume point on, also inside a segment, the rest of the log follows."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    last = await random_life(wire, project_id, seed=2)
    everything = flat(await whole_log(wire, project_id, last))
    stats = await wire.stats(project_id)
    assert stats.commits < stats.batches, "some commit holds several revisions"
    for after in range(last + 1):
        async with wire.watch(project_id, after_revision=after, bookmark_interval_ms=100) as watch:
            log = await watch.until(lambda log: log.resume >= last)
        assert flat(log) == [item for item in everything if item[0] > after]


async def test_a_filtered_watch_resumes_at_every_revision(shared_wire: Wire) -> None:
    """With a filter too, what was told live is told again from any point on."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    view_filter = WatchFilter(states=[RUNNING, FAILED], agent_names=["first"])
    async with wire.watch(
        project_id, from_beginning=True, filter=view_filter, bookmark_interval_ms=100
    ) as live:
        await live.started()
        last = await random_life(wire, project_id, seed=3)
        await live.through(last)
    everything = flat(live.log)
    assert everything
    for after in range(last + 1):
        async with wire.watch(
            project_id, after_revision=after, filter=view_filter, bookmark_interval_ms=100
        ) as watch:
            log = await watch.through(last)
        assert flat(log) == [item for item in everything if item[0] > after]


async def test_a_watch_resumes_after_each_of_its_messages(shared_wire: Wire) -> None:
    """A watcher that breaks off after every few messages sees each revision exactly once."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("root"))
    log = WatchLog()
    writing = asyncio.create_task(random_life_patches(wire, project_id, 300))
    request = WatchProjectRequest(
        project_id=project_id, from_beginning=True, bookmark_interval_ms=100
    )
    watches = 0
    while log.announced < 302:
        async with RawWatch(wire.stub, request, log) as watch:
            seen = len(log.messages)
            await watch.until(lambda log, seen=seen: len(log.messages) >= seen + 3)  # type: ignore[misc]
        watches += 1
        request = WatchProjectRequest(
            project_id=project_id, after_revision=log.resume, bookmark_interval_ms=100
        )
    assert await writing == 302
    assert watches > 1
    assert flat(log) == flat(await whole_log(wire, project_id, 302))


async def random_life_patches(wire: Wire, project_id: str, count: int) -> int:
    """Patch the root `count` times, one revision each."""
    revision = 0
    for at in range(count):
        revision = await wire.commit(project_id, patch("root", output_summary=f"at {at}"))
    return revision


async def test_a_watch_is_bookmarkable(shared_wire: Wire) -> None:
    """An idle watcher is told the head and the checksum of its view; each is a resume point."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
        await watch.until(lambda log: log.bookmarks >= 2)
        last = await random_life(wire, project_id, seed=4)
        await watch.through(last)
        marks = watch.log.bookmarks
        # `WatchLog` compares every checksum with its own.
        log = await watch.until(lambda log: log.bookmarks >= marks + 2)
    assert log.resume == last
    assert as_bytes(log.view) == await view_of(wire, project_id)


async def test_bookmarks_cover_revisions_that_the_filter_hides(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"), create("b"))
    only_b = WatchFilter(subtree_root_node_id="b")
    async with wire.watch(
        project_id, snapshot=True, filter=only_b, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        for at in range(5):
            await wire.commit(project_id, patch("a", output_summary=str(at)))
        log = await watch.until(lambda log: log.resume == 7)
        assert not log.changes
        await wire.commit(project_id, patch("b", output_summary="seen"))
        log = await watch.through(8)
    assert list(log.changes) == [8]
    assert log.view is not None
    assert set(log.view.nodes) == {"b"}


@pytest.mark.slow
async def test_a_default_bookmark_comes_within_ten_seconds(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    async with wire.watch(project_id, head=True) as watch:
        await watch.until(lambda log: log.bookmarks, seconds=12)
    assert watch.log.resume == 1


TREE = [
    create("root", state=READY),
    create("a", "root", state=READY, agent_name="x"),
    create("b", "root", state=READY, agent_name="y"),
    create("a1", "a", 2, state=READY, agent_name="x"),
    create("a2", "a", 2, state=READY, agent_name="y"),
    create("a11", "a1", 3, state=READY, agent_name="x"),
    create("b1", "b", 2, state=READY, agent_name="x"),
]
NODE, PROJECT, COMMAND = (
    EntityKind.ENTITY_KIND_NODE,
    EntityKind.ENTITY_KIND_PROJECT,
    EntityKind.ENTITY_KIND_COMMAND,
)


@pytest.mark.parametrize(
    "view_filter, shown",
    [
        (WatchFilter(), "root a b a1 a2 a11 b1"),
        (WatchFilter(subtree_root_node_id="a"), "a a1 a2 a11"),
        (WatchFilter(subtree_root_node_id="a", max_depth=1), "a a1 a2"),
        (WatchFilter(subtree_root_node_id="a", max_depth=0), "a"),
        (WatchFilter(max_depth=1), "root a b"),
        (WatchFilter(agent_names=["x"]), "a a1 a11 b1"),
        (WatchFilter(agent_names=["x"], subtree_root_node_id="b"), "b1"),
        (WatchFilter(states=[RUNNING]), ""),
        (WatchFilter(kinds=[PROJECT]), ""),
        (WatchFilter(subtree_root_node_id="nothing"), ""),
    ],
)
async def test_a_snapshot_and_the_log_show_the_same_filtered_view(
    shared_wire: Wire, view_filter: WatchFilter, shown: str
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    for start in ({"snapshot": True}, {"from_beginning": True}):
        async with wire.watch(
            project_id, filter=view_filter, bookmark_interval_ms=100, **start
        ) as watch:
            log = await watch.until(lambda log: log.bookmarks)
            assert log.messages[0].created.filter == view_filter
            assert log.view is not None
            assert set(log.view.nodes) == set(shown.split())


async def test_entering_a_filter_sends_the_whole_node_and_leaving_says_left(
    shared_wire: Wire,
) -> None:
    """By state and by agent; live and from the store."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    view_filter = WatchFilter(states=[RUNNING], agent_names=["x"])
    async with wire.watch(
        project_id, snapshot=True, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        await wire.commit(project_id, patch("a", state=RUNNING), patch("b", state=RUNNING))
        await wire.commit(project_id, patch("a", output_summary="inside"))
        await wire.commit(project_id, patch("a", agent_name="y"))
        await wire.commit(project_id, patch("a", output_summary="outside"))
        await wire.commit(project_id, patch("a", agent_name="x"))
        await wire.commit(project_id, patch("a", state=DONE))
        live = await watch.until(lambda log: log.resume == 8)
    async with wire.watch(
        project_id, after_revision=2, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        stored = await watch.until(lambda log: log.resume == 8)
    for log in (live, stored):
        assert sorted(log.changes) == [3, 4, 5, 7, 8]
        changes = {revision: only(log, revision) for revision in log.changes}
        assert {change.node.node_id for change in changes.values()} == {"a"}
        entered, inside, left = changes[3].node, changes[4].node, changes[5].node
        assert entered.node.goal == "goal of a"
        assert entered.node.parent_node_id == "root"
        assert entered.node.state == RUNNING
        assert entered.previous_state == READY
        assert inside.patch.output_summary == "inside"
        assert left.removal == Removal.REMOVAL_LEFT
        assert left.previous_agent_name == "x"
        assert changes[7].node.node.output_summary == "outside"
        assert changes[7].node.node.version == changes[7].node.version
        assert changes[8].node.removal == Removal.REMOVAL_LEFT


def only(log: WatchLog, revision: int) -> Change:
    """Return the one change of a revision."""
    (change,) = log.changes[revision]
    return change


async def test_kinds_select_nodes_project_and_commands(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    everything: dict[str, list[int]] = {
        "": [1, 2, 4],
        "NODE": [2],
        "PROJECT": [1, 4],
        "COMMAND": [3],
        "NODE COMMAND": [2, 3],
        "NODE PROJECT COMMAND": [1, 2, 3, 4],
    }
    await wire.commit(project_id, create("n"))
    await wire.commit(project_id, order_cancel("c"))
    await wire.commit(project_id, change_project(label_upserts={"a": "b"}))
    for names, revisions in everything.items():
        kinds = [EntityKind.Value(f"ENTITY_KIND_{name}") for name in names.split()]
        async with wire.watch(
            project_id,
            from_beginning=True,
            filter=WatchFilter(kinds=kinds),
            bookmark_interval_ms=100,
        ) as watch:
            log = await watch.until(lambda log: log.resume == 4)
        assert sorted(log.changes) == revisions, names
    async with wire.watch(project_id, snapshot=True, filter=WatchFilter(kinds=[COMMAND])) as watch:
        log = await watch.through(4)
    chunk = log.messages[1].snapshot
    assert [command.command_id for command in chunk.commands] == ["c"]
    assert not chunk.HasField("project")


async def test_a_subtree_deleted_in_one_batch_leaves_the_view(shared_wire: Wire) -> None:
    """A leaf and then its parent: both removals are shown although the chain is gone."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, *TREE)
    view_filter = WatchFilter(subtree_root_node_id="a")
    async with wire.watch(
        project_id, snapshot=True, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        await watch.through(2)
        await wire.commit(
            project_id,
            patch("a11", output_summary="last words"),
            *[delete(node_id) for node_id in ("a11", "a1", "a2", "a")],
        )
        log = await watch.until(lambda log: log.resume == 3)
    assert log.view is not None
    assert not log.view.nodes
    assert len(log.changes[3]) == 5
    async with wire.watch(
        project_id, after_revision=2, filter=view_filter, bookmark_interval_ms=100
    ) as watch:
        stored = await watch.until(lambda log: log.resume == 3)
    assert flat(stored) == flat(log)


async def test_head_tells_nothing_of_the_past(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"))
    async with wire.watch(project_id, head=True) as watch:
        log = await watch.started()
        assert log.messages[0].created.head_revision == 2
        await wire.commit(project_id, create("b"))
        log = await watch.through(3)
    assert list(log.changes) == [3]


async def test_a_wrong_project_uid_is_resynced_with_a_snapshot(shared_wire: Wire) -> None:
    wire = shared_wire
    project = await wire.create_project()
    await wire.commit(project.project_id, create("a"))
    async with wire.watch(
        project.project_id, project_uid="of-another-store", after_revision=1_000
    ) as watch:
        log = await watch.until(lambda log: log.resume == 2)
    kinds = [message.WhichOneof("message") for message in log.messages]
    assert kinds == ["created", "resync", "snapshot"]
    assert log.resyncs == [ResyncReason.RESYNC_REASON_PROJECT_REPLACED]
    assert log.messages[0].created.project_uid == project.project_uid
    async with wire.watch(
        project.project_id, project_uid=project.project_uid, after_revision=1
    ) as watch:
        log = await watch.through(2)
    assert [message.WhichOneof("message") for message in log.messages] == ["created", "delta"]


async def test_a_resume_point_ahead_of_the_store_is_refused(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    for after in (2, 2**63, 2**64 - 1):
        async with wire.watch(project_id, after_revision=after) as watch:
            error = await watch.end()
        assert error is not None
        shown = await refusal(_raising(error))
        assert (shown.code, shown.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_AHEAD")
        assert shown.metadata == {"revision": str(after), "head_revision": "1"}


async def _raising(error: grpc.aio.AioRpcError) -> None:
    raise error


async def test_a_snapshot_comes_in_chunks_with_one_resume_point(shared_wire: Wire) -> None:
    """Large nodes make many chunks; commits meanwhile follow as deltas, without a gap."""
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    body = {"text": "x" * 200_000}
    for at in range(4):
        await wire.commit(
            project_id, *[create(f"n{at}-{i}", result=body, state=READY) for i in range(10)]
        )
    async with wire.watch(project_id, snapshot=True) as watch:
        await watch.started()
        last = await wire.commit(project_id, patch("n0-0", state=RUNNING))
        log = await watch.through(last)
    chunks = [m.snapshot for m in log.messages if m.HasField("snapshot")]
    assert len(chunks) > 4
    assert [c.last for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert as_bytes(log.view) == await view_of(wire, project_id)


async def test_a_slow_watcher_costs_latency_and_nothing_else(state: StateProcess) -> None:
    """It reads nothing while 30 000 changes are made; then it sees every revision once."""
    frames, batches, mutations = 60, 50, 10
    async with connect(state.address) as wire, connect(state.address, SMALL_WINDOW) as slow_wire:
        project_id = (await wire.create_project()).project_id
        names = [f"n{i}" for i in range(mutations)]
        await wire.commit(project_id, *[create(name) for name in names])
        memory = state.memory()
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        # A call that nobody reads: flow control fills, then the mailbox.
        call = slow_wire.stub.WatchProject(request)
        slow = WatchLog()
        slow.begin(request)
        slow.take(await call.read())  # type: ignore[arg-type]
        async with wire.watch(project_id, from_beginning=True) as quick:
            async with wire.producer() as producer:
                for frame in range(frames):
                    await producer.send(
                        *[
                            batch(
                                project_id,
                                frame * batches + i + 1,
                                *[patch(n, output_summary=f"{frame}/{i} " * 80) for n in names],
                            )
                            for i in range(batches)
                        ]
                    )
                await producer.acked(project_id, frames * batches)
            last = frames * batches + 2
            await quick.through(last)
            stats = await wire.stats(project_id)
            assert (stats.watchers, stats.unsynced_watchers) == (2, 1)
            assert not quick.done
        grown = state.memory() - memory
        while slow.announced < last:
            slow.take(await call.read())  # type: ignore[arg-type]
        call.cancel()
        assert flat(slow) == flat(quick.log)
        assert sorted(slow.changes) == list(range(1, last + 1))
        # 30 000 changes are about 18 MB on the wire; the service holds none of them for it.
        assert grown < 60 << 20


async def test_a_commit_does_not_wait_for_a_watcher_that_does_not_read(
    shared_state: StateProcess, shared_wire: Wire
) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    await wire.commit(project_id, create("a"))
    async with connect(shared_state.address, SMALL_WINDOW) as slow_wire:
        calls = [
            slow_wire.stub.WatchProject(WatchProjectRequest(project_id=project_id, snapshot=True))
            for _ in range(5)
        ]
        for call in calls:
            await call.read()
        body = "x" * 100_000
        loop = asyncio.get_running_loop()
        slowest = 0.0
        for at in range(100):
            began = loop.time()
            await wire.commit(project_id, patch("a", output_summary=str(at), result={"text": body}))
            slowest = max(slowest, loop.time() - began)
        for call in calls:
            call.cancel()
    assert slowest < 2.0


async def test_many_watchers_with_the_same_filter_are_told_the_same(shared_wire: Wire) -> None:
    wire = shared_wire
    project_id = (await wire.create_project()).project_id
    view_filter = WatchFilter(states=[RUNNING, DONE])
    async with AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(
                wire.watch(
                    project_id,
                    from_beginning=True,
                    filter=view_filter,
                    bookmark_interval_ms=500,
                )
            )
            for _ in range(60)
        ]
        for watch in watches:
            await watch.started()
        last = await random_life(wire, project_id, seed=5)
        logs = [await watch.through(last) for watch in watches]
        expected = flat(logs[0])
        assert expected
        assert all(flat(log) == expected for log in logs)

    async def gone() -> bool:
        return (await wire.stats(project_id)).watchers == 0

    await eventually(gone, "watchers whose clients have gone are forgotten")


async def test_a_watch_ends_with_its_place_and_resumes_after_the_restart(
    start_state: Start,
) -> None:
    """SIGTERM: `ended` with a resume point. The new process goes on there, without a gap."""
    state = start_state()
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(connect(state.address))
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        only_root = WatchProjectRequest(
            project_id=project_id,
            snapshot=True,
            filter=WatchFilter(subtree_root_node_id="other"),
        )
        log, filtered = WatchLog(), WatchLog()
        async with (
            RawWatch(wire.stub, request, log) as watch,
            RawWatch(wire.stub, only_root, filtered) as quiet,
        ):
            await watch.through(2)
            await quiet.through(2)
            last = await random_life_patches(wire, project_id, 20)
            assert await asyncio.to_thread(state.stop) == 0
            assert await watch.end() is None
            assert await quiet.end() is None
        for ended in (log, filtered):
            assert ended.messages[-1].ended.reason == (
                WatchEndReason.WATCH_END_REASON_SERVER_DRAINING
            )
            assert ended.resume == last == 22
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        request = WatchProjectRequest(project_id=project_id, after_revision=log.resume)
        async with RawWatch(wire.stub, request, log) as watch:
            await watch.started()
            last = await random_life_patches(wire, project_id, 5)
            await watch.through(last)
        assert flat(log) == flat(await whole_log(wire, project_id, 27))


async def test_many_who_ask_for_a_stored_project_at_once_all_get_it(start_state: Start) -> None:
    """After a restart everyone comes back at the same moment; the project is loaded once."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
        last = await random_life_patches(wire, project_id, 20)
    await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire, AsyncExitStack() as stack:
        watches = [
            await stack.enter_async_context(wire.watch(project_id, from_beginning=True))
            for _ in range(10)
        ]
        projects = await asyncio.gather(*[wire.project(project_id) for _ in range(10)])
        assert {project.revision for project in projects} == {last}
        for watch in watches:
            await watch.through(last)


async def test_a_watch_is_refused_while_draining(start_state: Start) -> None:
    """A producer that keeps its stream open does not delay the end by more than its grace."""
    state = start_state("--drain-seconds", "3")
    async with connect(state.address) as wire, connect(state.address) as other:
        project_id = (await wire.create_project()).project_id
        await other.project(project_id)
        async with wire.producer() as producer:
            await producer.write_batch(batch(project_id, 1, create("a")))
            stopping = asyncio.create_task(asyncio.to_thread(state.stop))
            await producer.until(lambda: producer.drain is not None)
            async with other.watch(project_id) as watch:
                error = await watch.end()
            assert error is not None
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert await stopping == 0


@pytest.mark.parametrize(
    "failpoint", ["before_begin", "before_commit", "after_commit", "before_ack", "before_publish"]
)
async def test_a_watcher_is_never_ahead_of_durable(start_state: Start, failpoint: str) -> None:
    """Killed at any place of a commit, nothing that a watcher has seen is lost."""
    state = start_state()
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("root"))
    await asyncio.to_thread(state.restart, failpoints=f"{failpoint}=kill@4")
    log = WatchLog()
    async with connect(state.address) as wire:
        request = WatchProjectRequest(project_id=project_id, from_beginning=True)
        async with RawWatch(wire.stub, request, log) as watch:
            await watch.through(2)
            with pytest.raises(grpc.aio.AioRpcError):
                await random_life_patches(wire, project_id, 10)
            assert await watch.end() is not None
    state.wait()
    await asyncio.to_thread(state.start)
    async with connect(state.address) as wire:
        head = (await wire.project(project_id)).revision
        assert 5 <= head <= 6
        assert log.announced <= head, "the watcher saw what is lost"
        stored = flat(await whole_log(wire, project_id, head))
        assert flat(log) == [item for item in stored if item[0] <= log.announced]


async def test_nothing_is_shown_while_a_commit_is_being_written(start_state: Start) -> None:
    """The writer sleeps inside the transaction: no watcher, no read, no ack; then all of it."""
    state = start_state(failpoints="before_commit=sleep:1@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
            await watch.through(2)
            commit = asyncio.create_task(wire.commit(project_id, patch("a", output_summary="new")))

            async def pending() -> bool:
                node = await wire.node(project_id, "a", include_pending=True)
                return node.output_summary == "new"

            await eventually(pending, "the batch is accepted")
            marks = watch.log.bookmarks
            await watch.until(lambda log: log.bookmarks >= marks + 3)
            assert not commit.done()
            assert watch.log.announced == 2
            assert (await wire.node(project_id, "a")).output_summary == ""
            assert (await wire.project(project_id)).revision == 2
            assert await commit == 3
            await watch.through(3)


async def test_a_failed_commit_is_never_shown(start_state: Start) -> None:
    """An error inside the transaction: refused, invisible, and the next one takes its number."""
    state = start_state(failpoints="before_commit=error@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, from_beginning=True) as watch:
            await watch.through(2)
            shown = await refusal(
                wire.stub.CommitBatch(
                    CommitBatchRequest(
                        project_id=project_id, mutations=[patch("a", output_summary="lost")]
                    )
                )
            )
            assert (shown.code, shown.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "STORE_UNAVAILABLE",
            )
            assert shown.retry
            assert await wire.commit(project_id, patch("a", output_summary="kept")) == 3
            log = await watch.through(3)
    assert only(log, 3).node.patch.output_summary == "kept"


async def test_a_commit_whose_outcome_was_unknown_is_acknowledged_if_it_happened(
    start_state: Start,
) -> None:
    """The error comes after COMMIT: the store is asked, and the answer is the truth (SEM 7)."""
    state = start_state(failpoints="after_commit=error@3")
    async with connect(state.address) as wire:
        project_id = (await wire.create_project()).project_id
        await wire.commit(project_id, create("a"))
        async with wire.watch(project_id, from_beginning=True) as watch:
            assert await wire.commit(project_id, patch("a", output_summary="kept")) == 3
            await watch.through(3)
        await asyncio.to_thread(state.restart)
    async with connect(state.address) as wire:
        assert (await wire.node(project_id, "a")).output_summary == "kept"
