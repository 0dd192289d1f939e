"""Pages go on where the one before has ended, whatever was deleted meanwhile."""

from __future__ import annotations

from ramify.v1.state_service_pb2 import (
    DeleteProjectRequest,
    ListProjectsRequest,
    ListReviewsRequest,
)
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.reviews import ReviewRpcs
from state_svc.store.memory import MemoryStore
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, open_review


async def _delete(running: Embedded, project_id: str) -> None:
    request = DeleteProjectRequest(project_id=project_id, force=True)
    await HistoryRpcs(running.service).delete_project(request)


async def test_a_listing_goes_on_although_the_project_that_its_page_ended_with_is_deleted() -> None:
    async with embedded(MemoryStore()) as running:
        for name in "abcd":
            await running.create(name)
        request = ListProjectsRequest(page_size=2)
        page = await running.projects.list_projects(request)
        assert [project.project_id for project in page.projects] == ["a", "b"]
        await _delete(running, "b")
        request.page_token = page.next_page_token
        page = await running.projects.list_projects(request)
        assert [project.project_id for project in page.projects] == ["c", "d"]
        assert not page.next_page_token


async def test_a_listing_of_reviews_goes_on_although_its_project_is_deleted() -> None:
    async with embedded(MemoryStore()) as running:
        for name in "abc":
            await running.create(name)
            await running.commit(name, create("n"))
            await running.commit(name, open_review("first", "n"), open_review("second", "n"))
        reviews, request = ReviewRpcs(running.service), ListReviewsRequest(page_size=3)
        page = await reviews.list_reviews(request)
        assert [item.project_id for item in page.reviews] == ["a", "a", "b"]
        await _delete(running, "b")
        request.page_token = page.next_page_token
        page = await reviews.list_reviews(request)
        assert [item.project_id for item in page.reviews] == ["c", "c"]
