"""Large projects, large bodies, long lists: every answer is small enough for any client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from ramify.v1.state_service_pb2 import (
    ListNodeHistoryRequest,
    ListNodesRequest,
    ListProjectsRequest,
    NodeHistoryEntry,
    WatchFilter,
)
from tests.support.hold import Hold
from tests.support.mutations import DONE, NEEDS_REPLAN, READY, RUNNING, batch, create, patch
from tests.support.state_process import StateProcess
from tests.support.wire import Wire, connect, eventually

Start = Callable[..., StateProcess]

#: What a client accepts that was told nothing: gRPC's own default.
PLAIN_CLIENT = [("grpc.max_receive_message_length", 4 << 20)]
NODES = 10_000


@pytest.fixture
async def plain_wire(shared_state: StateProcess) -> AsyncIterator[Wire]:
    """A client without special limits."""
    async with connect(shared_state.address, PLAIN_CLIENT) as opened:
        yield opened


async def test_a_project_of_10_000_nodes_is_created_watched_and_listed(plain_wire: Wire) -> None:
    """Over the stream; from a snapshot in chunks; in pages pinned to one revision."""
    wire = plain_wire
    project_id = (await wire.create_project()).project_id
    async with wire.producer() as producer:
        await producer.send(batch(project_id, 1, create("root", state=READY)))
        for sequence in range(2, 102):
            await producer.send(
                batch(
                    project_id,
                    sequence,
                    *[
                        create(f"n{(sequence - 2) * 100 + n}", "root", state=READY, goal="g" * 500)
                        for n in range(100)
                    ],
                )
            )
        created = await producer.acked(project_id, 101)
        assert (await wire.project(project_id)).node_counts["READY"] == NODES + 1
        async with wire.watch(project_id, snapshot=True, bookmark_interval_ms=100) as watch:
            await watch.through(created)
            chunks = [m.snapshot for m in watch.log.messages if m.HasField("snapshot")]
            assert len(chunks) > 3
            assert sum(len(chunk.nodes) for chunk in chunks) == NODES + 1
            # Pages show the revision of the first, whatever happens between them.
            found: list[str] = []
            token, pages, sequence = "", 0, 101
            while token or not pages:
                page = await wire.stub.ListNodes(
                    ListNodesRequest(project_id=project_id, page_size=700, page_token=token)
                )
                assert page.revision == created
                assert {node.state for node in page.nodes} == {READY}
                found.extend(node.node_id for node in page.nodes)
                token = page.next_page_token
                pages += 1
                sequence += 1
                await producer.write_batch(
                    batch(
                        project_id,
                        sequence,
                        *[
                            patch(f"n{NODES - 1 - pages * 50 - n}", state=RUNNING)
                            for n in range(50)
                        ],
                        create(f"late-{pages}", "root"),
                    )
                )
            assert found == ["root", *[f"n{n}" for n in range(NODES)]]
            assert pages == 15
            log = await watch.until(lambda log: log.resume == created + pages and log.bookmarks)
        assert log.view is not None
        assert len(log.view.nodes) == NODES + 1 + pages
        listed = await wire.nodes(project_id)
        assert len(listed) == NODES + 1 + pages
        assert len(await wire.nodes(project_id, states=[RUNNING])) == 50 * pages


async def test_pages_end_before_they_are_too_large(plain_wire: Wire) -> None:
    """Of nodes and of a node's history: bodies of 900 kB, and a page for all of them."""
    wire = plain_wire
    project_id = (await wire.create_project()).project_id
    body = {"text": "x" * 900_000}
    await wire.commit(project_id, create("n"))
    for n in range(8):
        await wire.commit(project_id, create(f"n{n}", result=body))
        await wire.commit(project_id, patch("n", result={"text": f"{n}" * 900_000}))
    assert len(await wire.nodes(project_id)) == 9
    entries: list[NodeHistoryEntry] = []
    token, pages = "", 0
    while token or not pages:
        page = await wire.stub.ListNodeHistory(
            ListNodeHistoryRequest(
                project_id=project_id, node_id="n", page_size=1_000, page_token=token
            )
        )
        entries.extend(page.entries)
        token = page.next_page_token
        pages += 1
    assert [entry.change.version for entry in entries] == list(range(1, 10))
    assert pages > 2


async def test_a_page_of_projects_ends_before_it_is_too_large(start_state: Start) -> None:
    state = start_state()
    async with connect(state.address, PLAIN_CLIENT) as wire:
        for n in range(150):
            await wire.create_project(f"p{n}", goal="ü" * 10_000, labels={"n": str(n)})
        names: list[str] = []
        token = ""
        while token or not names:
            page = await wire.stub.ListProjects(
                ListProjectsRequest(page_size=1_000, page_token=token)
            )
            names.extend(project.project_id for project in page.projects)
            token = page.next_page_token
        assert names == [f"p{n}" for n in range(150)]


async def test_a_commit_of_many_large_batches_can_be_watched_later(
    start_state: Start, hold: Hold
) -> None:
    """They piled up behind a slow disk and went into one commit; each message stays small."""
    state = start_state(failpoints=f"before_commit=hold:{hold}@3")
    async with connect(state.address, PLAIN_CLIENT) as wire:
        project_id = (await wire.create_project()).project_id
        async with wire.producer("prod", 1) as producer:
            pile = [
                batch(
                    project_id,
                    n,
                    *[create(f"n{n}-{i}", result={"text": "x" * 500_000}) for i in range(5)],
                )
                for n in range(1, 6)
            ]
            first = asyncio.create_task(wire.commit(project_id, create("first")))
            await eventually(hold.reached, "the slow commit")
            for item in pile:
                await producer.send(item)
            await wire.accepted(project_id, "n5-4")
            hold.release()
            assert await first == 2
            assert await producer.acked(project_id, 5) == 7
        assert (await wire.stats(project_id)).commits < 7, "they went into one commit"
        for view_filter in (None, WatchFilter(max_depth=3)):
            async with wire.watch(project_id, from_beginning=True, filter=view_filter) as watch:
                await watch.through(7)
    await asyncio.to_thread(state.restart)
    async with connect(state.address, PLAIN_CLIENT) as wire:
        assert (await wire.project(project_id)).node_counts["PENDING"] == 26


async def test_many_large_nodes_may_enter_a_filter_in_one_revision(plain_wire: Wire) -> None:
    wire = plain_wire
    project_id = (await wire.create_project()).project_id
    names = [f"n{n}" for n in range(8)]
    for name in names:
        await wire.commit(
            project_id,
            create(name, state=READY),
            patch(name, state=RUNNING),
            patch(name, state=DONE, result={"text": "x" * 900_000}),
        )
    async with wire.watch(
        project_id, snapshot=True, filter=WatchFilter(states=[NEEDS_REPLAN])
    ) as watch:
        await watch.through(9)
        last = await wire.commit(project_id, *[patch(n, state=NEEDS_REPLAN) for n in names])
        log = await watch.through(last)
    assert log.view is not None
    assert len(log.view.nodes) == 8
