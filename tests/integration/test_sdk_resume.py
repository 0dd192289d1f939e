"""The SDK against a real state_svc that is killed under it."""

import asyncio

from ramify import AsyncClient, View, WatchStart
from ramify.backoff import Backoff
from ramify.calls import CallPolicy
from ramify.checksum import checksum_of
from ramify.cursor import WatchCursor
from ramify.events import WatchBookmark, WatchDelta, WatchDisconnected, WatchEvent, WatchSnapshot
from ramify.v1.mutation_pb2 import Mutation, NodeMutation
from ramify.v1.node_pb2 import Node, NodePatch, NodeState, TaskType
from ramify.v1.state_service_pb2 import WatchFilter
from ramify.watch import WatchPolicy
from tests.support.bound import WAIT_SECONDS
from tests.support.state_process import StateProcess

BATCHES = 40
QUICK = Backoff(base=0.05, cap=0.2)
PATIENT = CallPolicy(timeout=WAIT_SECONDS, max_attempts=10_000, backoff=QUICK)
POLICY = WatchPolicy(on_gap="raise", backoff=QUICK)


def client_of(state: StateProcess) -> AsyncClient:
    return AsyncClient(state.address, actor="test", policy=PATIENT)


def created(node_id: str, parent: str = "") -> Mutation:
    node = Node(
        goal=f"goal of {node_id}",
        parent_node_id=parent,
        task_type=TaskType.TASK_TYPE_SEARCH,
        layer=1 if parent else 0,
        state=NodeState.NODE_STATE_READY,
    )
    return Mutation(node=NodeMutation(node_id=node_id, create=node))


def moved(node_id: str, state: NodeState.ValueType, **fields: str) -> Mutation:
    patch = NodePatch(state=state, **fields)  # type: ignore[arg-type]
    return Mutation(node=NodeMutation(node_id=node_id, patch=patch))


async def write(client: AsyncClient, project_id: str, batches: int = BATCHES) -> None:
    """Make revisions that create, change and finish nodes; each is repeated until durable."""
    await client.commit_batch(project_id, [created("root")])
    for number in range(batches):
        name = f"n{number}"
        mutations = [created(name, "root"), moved(name, NodeState.NODE_STATE_RUNNING)]
        if number:
            before = f"n{number - 1}"
            done = NodeState.NODE_STATE_DONE
            mutations.append(moved(before, done, output_summary=f"result of {before}"))
        await client.commit_batch(project_id, mutations)


async def test_a_watch_shows_every_revision_once_although_state_svc_is_killed(
    state: StateProcess,
) -> None:
    async with client_of(state) as client:
        await client.create_project("to be watched", project_id="p")
        view, seen = View(), list[WatchEvent]()

        async def follow() -> None:
            kills, noticed = [5, 15, 16, 30], True
            start = WatchStart.from_beginning()
            async for event in client.watch("p", start, bookmark_interval_ms=100, policy=POLICY):
                seen.append(event)
                view.apply(event)
                # The next kill only once the one before it was noticed.
                noticed = noticed or isinstance(event, WatchDisconnected)
                if noticed and kills and view.revision >= kills[0]:
                    kills.pop(0)
                    noticed = False
                    await asyncio.to_thread(state.restart)
                if isinstance(event, WatchBookmark) and view.revision == BATCHES + 2:
                    return

        async with asyncio.timeout(2 * WAIT_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(follow())
            group.create_task(write(client, "p"))
        nodes = [node async for node in client.list_nodes("p")]
    covered = [
        revision
        for event in seen
        if isinstance(event, WatchDelta)
        for revision in range(event.delta.first_revision, event.delta.last_revision + 1)
    ]
    assert covered == list(range(1, BATCHES + 3))
    assert sum(isinstance(event, WatchDisconnected) for event in seen) >= 4
    assert view.checksum == checksum_of(nodes)
    assert list(view.nodes.values()) == nodes


async def test_a_view_from_deltas_equals_a_view_from_a_snapshot_field_by_field(
    state: StateProcess,
) -> None:
    async with client_of(state) as client:
        await client.create_project("to be compared", project_id="p")
        await write(client, "p", 10)
        views = []
        for start in (WatchStart.from_beginning(), WatchStart.snapshot()):
            view = View()
            events = client.watch("p", start, policy=POLICY)
            async for event in events:
                view.apply(event)
                if isinstance(event, WatchDelta | WatchSnapshot) and view.revision == 12:
                    break
            await events.aclose()
            views.append(view)
    built, copied = views
    assert list(built.nodes.values()) == list(copied.nodes.values())
    assert built.project == copied.project
    assert [node.node_id for node in built.children("root")] == [f"n{n}" for n in range(10)]


async def test_a_filtered_watch_keeps_its_intervals_joined_and_its_checksum_right(
    state: StateProcess,
) -> None:
    running = WatchFilter(states=[NodeState.NODE_STATE_RUNNING])
    async with client_of(state) as client:
        await client.create_project("to be filtered", project_id="p")
        await write(client, "p", 10)
        view = View()
        events = client.watch(
            "p",
            WatchStart.from_beginning(),
            filter=running,
            bookmark_interval_ms=100,
            policy=POLICY,
        )
        async for event in events:
            view.apply(event)
            if isinstance(event, WatchBookmark) and view.revision == 12:
                break
        await events.aclose()
    assert view.revision == 12
    assert list(view.nodes) == ["n9"]


def test_a_stored_position_is_all_that_a_new_process_needs() -> None:
    cursor = WatchCursor("p", WatchStart.after(7, "uid"))
    request = cursor.request()
    assert (request.after_revision, request.project_uid) == (7, "uid")
