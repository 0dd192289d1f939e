"""Reviews are found by id, by project, across projects and in watches; restarts lose none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ramify.v1.review_pb2 import ReviewDecision, ReviewState
from ramify.v1.state_service_pb2 import (
    AcquireLeaseRequest,
    EntityKind,
    ForkProjectRequest,
    GetReviewRequest,
    ListReviewsRequest,
    WatchFilter,
    WatchProjectRequest,
    WatchProjectResponse,
)
from state_svc.errors import CorruptRecord, InvalidRequest, ProjectNotFound, ReviewNotFound
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.leases import LeaseRpcs
from state_svc.rpc.reviews import ReviewRpcs
from state_svc.store.memory import MemoryStore
from state_svc.watch.session import WatchSession
from tests.support.damage import damage
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, open_review, resolve

OPEN = ReviewState.REVIEW_STATE_OPEN
RESOLVED = ReviewState.REVIEW_STATE_RESOLVED
APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Embedded]:
    async with embedded(tmp_path) as running:
        await fill(running)
        yield running


async def fill(service: Embedded) -> None:
    for project_id in ("a", "b", "c", "d"):
        await service.create(project_id)
    for project_id in ("a", "c", "d"):
        await service.commit(project_id, create("root"))
        await service.commit(project_id, *(open_review(f"r{n}", "root") for n in (1, 2)))
    await service.commit("a", resolve("r1", APPROVE, actor="ada"))
    await service.commit("d", resolve("r1", APPROVE), resolve("r2", APPROVE))


async def test_a_page_reads_few_projects_from_the_store_and_keeps_none_of_them(
    tmp_path: Path,
) -> None:
    """What is asked for may be in the last of a million, or nowhere."""
    names = [f"p{number:02}" for number in range(25)]
    async with embedded(tmp_path) as running:
        for name in names:
            await running.create(name)
            await running.commit(name, create("root"), open_review("r", "root"))
    async with embedded(tmp_path) as running:
        request = ListReviewsRequest(node_id="nobody")
        pages = []
        while True:
            page = await ReviewRpcs(running.service).list_reviews(request)
            assert not page.reviews
            pages.append(page.next_page_token)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert pages == ["p09||", "p19||", ""]
        assert running.service.projects.live() == []
        assert await listed(running, page_size=4) == [f"{name}/r" for name in names]
        await running.commit("p03", resolve("r", APPROVE))
        assert await listed(running, states=[RESOLVED]) == ["p03/r"]


async def listed(service: Embedded, page_size: int = 0, **fields: Any) -> list[str]:
    request = ListReviewsRequest(page_size=page_size, **fields)
    found = []
    while True:
        page = await ReviewRpcs(service.service).list_reviews(request)
        found += [f"{item.project_id}/{item.review.review_id}" for item in page.reviews]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [0, 1, 2, 3])
async def test_reviews_are_listed_in_pages_of_any_size(service: Embedded, page_size: int) -> None:
    everything = ["a/r1", "a/r2", "c/r1", "c/r2", "d/r1", "d/r2"]
    assert await listed(service, page_size) == everything
    assert await listed(service, page_size, states=[OPEN]) == ["a/r2", "c/r1", "c/r2"]
    assert await listed(service, page_size, states=[RESOLVED]) == ["a/r1", "d/r1", "d/r2"]
    assert await listed(service, page_size, project_id="a") == ["a/r1", "a/r2"]
    assert await listed(service, page_size, project_id="a", node_id="nobody") == []
    assert await listed(service, page_size, project_id="b") == []


async def test_a_listing_goes_on_where_reviews_are_decided_meanwhile(service: Embedded) -> None:
    request = ListReviewsRequest(page_size=1, states=[OPEN])
    reviews = ReviewRpcs(service.service)
    first = await reviews.list_reviews(request)
    await service.commit("a", resolve("r2", APPROVE))
    request.page_token = first.next_page_token
    second = await reviews.list_reviews(request)
    assert [item.project_id for item in (*first.reviews, *second.reviews)] == ["a", "c"]


async def test_what_is_not_there_is_an_error_with_its_name(service: Embedded) -> None:
    reviews = ReviewRpcs(service.service)
    with pytest.raises(ReviewNotFound, match="review_id=r9"):
        await reviews.get_review(GetReviewRequest(project_id="a", review_id="r9"))
    with pytest.raises(ProjectNotFound):
        await listed(service, project_id="nobody")
    for bad in ({"page_token": "nobody|r1"}, {"page_size": 1_001}, {"states": [77]}):
        with pytest.raises(InvalidRequest):
            await listed(service, **bad)


async def test_reviews_and_their_counts_survive_a_restart(tmp_path: Path) -> None:
    async with embedded(tmp_path) as service:
        await fill(service)
    async with embedded(tmp_path) as service:
        # The counts of projects that are not in memory say which are worth loading.
        assert await listed(service, states=[OPEN]) == ["a/r2", "c/r1", "c/r2"]
        assert service.service.projects.loaded("d") is None
        request = GetReviewRequest(project_id="a", review_id="r1")
        answer = await ReviewRpcs(service.service).get_review(request)
        assert (answer.review.state, answer.review.actor) == (RESOLVED, "ada")


async def test_a_project_that_cannot_be_read_does_not_hide_the_reviews_of_others() -> None:
    store = MemoryStore()
    async with embedded(store) as service:
        await fill(service)
        uid = (await service.service.live("a")).uid
    damage(store, uid)
    async with embedded(store) as service:
        assert await listed(service, states=[OPEN]) == ["c/r1", "c/r2"]
        with pytest.raises(CorruptRecord):
            await listed(service, project_id="a")


async def test_a_decision_needs_no_lease(service: Embedded) -> None:
    request = AcquireLeaseRequest(project_id="c", holder="somebody")
    await LeaseRpcs(service.service).acquire_lease(request)
    await service.commit("c", resolve("r1", APPROVE))
    assert await listed(service, states=[OPEN], project_id="c") == ["c/r2"]


async def test_a_fork_asks_again_what_was_open(service: Embedded) -> None:
    request = ForkProjectRequest(project_id="a", new_project_id="f")
    fork = (await HistoryRpcs(service.service).fork_project(request)).project
    found = await listed(service, project_id="f", states=[OPEN])
    assert found == [f"f/r2.{fork.project_uid[:8]}"]
    assert (fork.open_review_count, fork.review_count) == (1, 2)


async def first_messages(service: Embedded, request: WatchProjectRequest) -> WatchProjectResponse:
    """Return the second message of a watch: the one after `created`."""
    project = await service.service.live(request.project_id)
    session = WatchSession(service.service.hub, service.service.store, project, request)
    messages = session.messages()
    await anext(messages)
    return WatchProjectResponse.FromString(await anext(messages))


async def test_every_watcher_sees_open_reviews_unless_it_asks_for_other_kinds(
    service: Embedded,
) -> None:
    seen = await first_messages(service, WatchProjectRequest(project_id="a"))
    assert [review.review_id for review in seen.snapshot.reviews] == ["r2"]
    nodes_only = WatchFilter(kinds=[EntityKind.ENTITY_KIND_NODE])
    seen = await first_messages(service, WatchProjectRequest(project_id="a", filter=nodes_only))
    assert not seen.snapshot.reviews
    seen = await first_messages(service, WatchProjectRequest(project_id="a", from_beginning=True))
    changes = [change.review for change in seen.delta.changes if change.HasField("review")]
    assert [(c.review_id, c.version) for c in changes] == [("r1", 1), ("r2", 1), ("r1", 2)]
    assert changes[-1].patch.actor == "ada"
