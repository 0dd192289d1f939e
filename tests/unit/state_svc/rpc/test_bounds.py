"""Bounds on calls that keep something of their client in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from ramify.v1.plan_pb2 import Plan
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    ExportProjectRequest,
    ExportProjectResponse,
    ImportProjectRequest,
    ListNodesRequest,
    PinRevisionRequest,
)
from state_svc.admin.arrival import ProjectFile, verify
from state_svc.errors import InvalidRequest, Overloaded
from state_svc.model.limits import Limits
from state_svc.rpc import idle, nodes, portable
from state_svc.rpc.gate import Gate
from state_svc.rpc.leases import LeaseRpcs
from state_svc.rpc.nodes import _MAX_LISTINGS, NodeRpcs
from state_svc.rpc.pins import PinRpcs
from state_svc.rpc.portable import _MAX_IMPORTS, PortableRpcs
from state_svc.service import Left
from tests.support.bound import WAIT_SECONDS
from tests.support.embedded import embedded
from tests.support.held_store import HeldStore
from tests.support.mutations import create, delete, patch


def test_a_gate_lets_in_so_many_at_a_time() -> None:
    gate = Gate("max_calls", 2)
    with gate.enter():
        with gate.enter(), pytest.raises(Overloaded) as caught, gate.enter():
            pass
        assert caught.value.fields == {"limit": "max_calls", "most": "2"}
        with gate.enter():
            assert gate.inside == 2
    with pytest.raises(ZeroDivisionError), gate.enter():
        raise ZeroDivisionError
    assert gate.inside == 0


async def test_imports_beyond_their_number_are_refused(tmp_path: Path) -> None:
    never, reading = asyncio.Event(), asyncio.Semaphore(0)

    async def endless() -> AsyncIterator[ImportProjectRequest]:
        reading.release()
        yield ImportProjectRequest(data=b"x")
        await never.wait()

    async with embedded(tmp_path) as running:
        rpcs = PortableRpcs(running.service)
        under_way = [
            asyncio.create_task(rpcs.import_project(endless())) for _ in range(_MAX_IMPORTS)
        ]
        for _ in under_way:
            await reading.acquire()
        with pytest.raises(Overloaded):
            await rpcs.import_project(endless())
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def test_an_import_counts_until_its_end_though_its_caller_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds its project in memory, whoever waits for it."""
    verifying, let_go = asyncio.Semaphore(0), threading.Event()
    loop = asyncio.get_running_loop()

    def held_verify(file: BinaryIO, limits: Limits) -> ProjectFile:
        loop.call_soon_threadsafe(verifying.release)
        assert let_go.wait(WAIT_SECONDS)
        return verify(file, limits)

    monkeypatch.setattr(portable, "verify", held_verify)
    async with embedded(tmp_path) as running:
        await running.create("p")
        rpcs, service = PortableRpcs(running.service), running.service
        file = b"".join(
            [
                ExportProjectResponse.FromString(message).data
                async for message in rpcs.export_project(ExportProjectRequest(project_id="p"))
            ]
        )

        async def upload(project_id: str) -> AsyncIterator[ImportProjectRequest]:
            yield ImportProjectRequest(project_id=project_id, request_id=project_id, data=file)

        names = [f"i{number}" for number in range(_MAX_IMPORTS)]
        for name in names:
            call = asyncio.create_task(rpcs.import_project(upload(name)))
            async with asyncio.timeout(WAIT_SECONDS):
                await verifying.acquire()
            call.cancel()
            await asyncio.wait([call])
        assert service.requests.left.count == _MAX_IMPORTS
        with pytest.raises(Overloaded):
            await rpcs.import_project(upload("more"))
        let_go.set()
        await asyncio.gather(*service.requests._running.values())
        assert service.requests.left.count == 0
        for name in names:
            assert (await service.live(name)).project_id == name
        await rpcs.import_project(upload("more"))


async def test_what_goes_on_without_its_caller_counts_among_the_calls() -> None:
    left = Left()
    gate = Gate("max_calls", 1, lambda: left.count)
    work = asyncio.get_running_loop().create_future()
    with gate.enter():
        call = asyncio.create_task(left.wait(work))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    with pytest.raises(Overloaded), gate.enter():
        pass
    work.set_result(None)
    await asyncio.sleep(0)
    with gate.enter():
        assert await left.wait(work) is None
    assert left.count == 0


async def test_no_call_adds_to_what_is_pending_while_that_fills_its_bound() -> None:
    """Callers whose deadlines end could pile up any number: what they asked for is still done."""
    store = HeldStore()
    async with embedded(store, "--max-pending-bytes", str(1 << 20)) as running:
        await running.create("p")
        leases, pins = LeaseRpcs(running.service), PinRpcs(running.service)
        store.gate.clear()
        store.entered.clear()
        plan = Plan(goal="g" * 300_000)
        created = [asyncio.create_task(running.create("a", plan=plan))]
        await store.entered.wait()
        created.append(asyncio.create_task(running.create("b", plan=plan)))
        for _ in range(100):  # turns of the loop: no thread and no timer is waited for
            await asyncio.sleep(0)
        assert not running.service.committer.has_room
        for call in (
            running.create("c"),
            running.commit("p", create("n")),
            leases.acquire_lease(AcquireLeaseRequest(project_id="p", holder="h")),
            pins.pin_revision(PinRevisionRequest(project_id="p", pin="here")),
        ):
            with pytest.raises(Overloaded, match="max_pending_bytes"):
                await call
        store.gate.set()
        await asyncio.gather(*created)
        await running.create("c")
        await leases.acquire_lease(AcquireLeaseRequest(project_id="p", holder="h"))
        assert (await running.service.live("p")).view.revision == 2


async def test_commits_go_on_while_many_nodes_are_searched(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await running.create("p")
        await running.commit("p", *(create(f"n{number}") for number in range(4_000)))
        done = False
        committed: list[int] = []

        async def write() -> None:
            while not done:
                committed.append(await running.commit("p", create(f"late-{len(committed)}")))

        writer = asyncio.create_task(write())
        await asyncio.sleep(0)
        request = ListNodesRequest(project_id="p", text="no such text")
        answer = await NodeRpcs(running.service).list_nodes(request)
        during = len(committed)
        done = True
        await writer
        assert not answer.nodes
        assert during >= 2, "the loop was given up between pieces"


async def test_the_oldest_listing_is_forgotten_and_made_again_from_the_past(
    tmp_path: Path,
) -> None:
    """Else anybody who begins listings would keep all others from reading theirs to the end."""
    names = ("a", "b", "c", "d")
    async with embedded(tmp_path) as running:
        await running.create("p")
        await running.commit("p", create("x"), *(create(name) for name in names))
        await running.commit("p", delete("x"), patch("b", retry_count=1))
        await running.create("q")
        await running.commit("q", *(create(f"n{n}") for n in range(3)))
        rpcs = NodeRpcs(running.service)
        request = ListNodesRequest(project_id="p", page_size=1)
        other = ListNodesRequest(project_id="q", page_size=1, include_pending=True)
        pending = ""
        page = await rpcs.list_nodes(request)
        found = [node.node_id for node in page.nodes]
        await running.commit("p", delete("c"), create("late"))
        while page.next_page_token:
            for n in range(_MAX_LISTINGS):
                await rpcs.list_nodes(ListNodesRequest(project_id="q", page_size=1, layer=n))
                pending = (await rpcs.list_nodes(other)).next_page_token
            assert not [name for name in rpcs._listings if name == page.next_page_token[:-2]]
            request.page_token = page.next_page_token
            page = await rpcs.list_nodes(request)
            assert page.revision == 3
            found += (node.node_id for node in page.nodes)
        assert found == [*names]
        assert len(rpcs._listings) == _MAX_LISTINGS
        other.page_token = pending
        assert (await rpcs.list_nodes(other)).nodes[0].node_id == "n1"
        rpcs._listings.clear()
        with pytest.raises(InvalidRequest, match="begin again"):
            await rpcs.list_nodes(other)


async def test_a_listing_is_held_once_for_all_who_read_it(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await running.create("p")
        await running.commit("p", create("a"), create("b"))
        rpcs = NodeRpcs(running.service)
        page = await rpcs.list_nodes(ListNodesRequest(project_id="p", page_size=1))
        assert await rpcs.list_nodes(ListNodesRequest(project_id="p", page_size=1)) == page
        (listing,) = rpcs._listings.values()
        assert rpcs._listed_bytes == listing.size
        for request in (
            ListNodesRequest(project_id="p", page_token=page.next_page_token, layer=0),
            ListNodesRequest(project_id="p", page_token="2." + page.next_page_token),
            ListNodesRequest(project_id="p", page_token="0.1"),
        ):
            with pytest.raises(InvalidRequest):
                await rpcs.list_nodes(request)


async def test_listings_are_forgotten_by_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest first; one that is larger than the bound can be read to its end all the same."""
    monkeypatch.setattr(nodes, "_LISTED_BYTES", 10_000)
    async with embedded(tmp_path) as running:
        await running.create("small")
        await running.commit("small", create("a"), create("b"))
        await running.create("large")
        await running.commit("large", *(create(f"n{n}") for n in range(100)))
        rpcs = NodeRpcs(running.service)

        async def page(project_id: str, token: str = "") -> str:
            request = ListNodesRequest(project_id=project_id, page_size=1, page_token=token)
            return (await rpcs.list_nodes(request)).next_page_token

        for n in range(20):
            await running.commit("small", patch("a", retry_count=n + 1))
            await page("small")
        kept = list(rpcs._listings.values())
        assert rpcs._listed_bytes == sum(listing.size for listing in kept) <= 10_000
        assert 1 < len(kept) < 20
        token = await page("large")
        assert len(rpcs._listings) == 1, "it leaves no room for others"
        for _ in range(98):
            token = await page("large", token)
        assert await page("large", token) == ""


async def test_an_upload_that_stands_still_ends_and_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four clients that stopped sending would keep everybody from importing."""
    monkeypatch.setattr(idle, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(idle, "LEAST_RATE", 1)  # so that only standing still counts
    never = asyncio.Event()

    async def stopped() -> AsyncGenerator[ImportProjectRequest, None]:
        yield ImportProjectRequest(data=b"x")
        await never.wait()

    async with embedded(tmp_path) as running:
        rpcs = PortableRpcs(running.service)
        for _ in range(_MAX_IMPORTS + 1):
            with pytest.raises(InvalidRequest) as caught:
                await rpcs.import_project(idle.received(stopped()))
            assert caught.value.fields["problem"] == "nothing came for 0.01 seconds"


async def test_what_is_received_in_time_is_handed_on_to_its_end() -> None:
    async def sending() -> AsyncIterator[int]:
        yield 1
        yield 2

    assert [request async for request in idle.received(sending())] == [1, 2]


async def test_a_message_that_a_client_does_not_read_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle, "IDLE_SECONDS", 0.01)
    with pytest.raises(Overloaded):
        await idle.sent(asyncio.get_running_loop().create_future(), 1, idle.Pace())


def test_a_transfer_that_trickles_ends_and_one_with_a_rate_goes_on() -> None:
    """A byte now and then would hold a place for ever."""
    slow, steady = idle.Pace(), idle.Pace()
    for _ in range(100):
        steady.add(30.0, 30 * idle.LEAST_RATE)
    assert steady.patience() == idle.IDLE_SECONDS
    for _ in range(3):
        assert slow.patience() > 0
        slow.add(20.0, 1)
    assert slow.patience() < 1
    slow.add(0.0, 10 * idle.LEAST_RATE)
    assert 10 < slow.patience() < 11
