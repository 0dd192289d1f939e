"""RPCs about reviews: one, and many of one project or of all."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from ramify.v1.review_pb2 import Review, ReviewState
from ramify.v1.state_service_pb2 import (
    GetReviewRequest,
    GetReviewResponse,
    ListReviewsRequest,
    ListReviewsResponse,
)
from state_svc.errors import CorruptRecord, InvalidRequest, ProjectNotFound, ReviewNotFound
from state_svc.model.review import OPEN
from state_svc.rpc.convert import MAX_PAGE_BYTES, check_enum, page_size
from state_svc.service import Service

_log = logging.getLogger(__name__)
_SEPARATOR = "|"  #: of a page token; no id has it


class ReviewRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def get_review(self, request: GetReviewRequest) -> GetReviewResponse:
        """Return one review as it is committed."""
        project = await self._service.live(request.project_id)
        review = project.view.reviews.get(request.review_id)
        if review is None:
            raise ReviewNotFound(project_id=request.project_id, review_id=request.review_id)
        return GetReviewResponse(review=review, revision=project.view.revision)

    async def list_reviews(self, request: ListReviewsRequest) -> ListReviewsResponse:
        """Return one page; the token names the last review of the page before."""
        size = page_size(request.page_size)
        check_enum("states", request.states, ReviewState.values())
        response = ListReviewsResponse()
        taken = 0
        async for project_id, review in self._selected(request):
            taken += review.ByteSize()
            if len(response.reviews) == size or (response.reviews and taken > MAX_PAGE_BYTES):
                last = response.reviews[-1]
                response.next_page_token = _SEPARATOR.join((last.project_id, last.review.review_id))
                break
            response.reviews.add(project_id=project_id, review=review)
        return response

    async def _selected(self, request: ListReviewsRequest) -> AsyncIterator[tuple[str, Review]]:
        at_project, _, at_review = request.page_token.partition(_SEPARATOR)
        states = frozenset(request.states)
        if request.project_id:
            projects = [request.project_id]
        else:
            projects = await self._with_reviews(states, at_project)
        for project_id in projects:
            try:
                project = await self._service.live(project_id)
            except ProjectNotFound:
                if request.project_id:
                    raise
                continue  # deleted since
            except CorruptRecord as error:
                if request.project_id:
                    raise
                _log.error("project cannot be read", extra={"fields": error.fields})
                continue
            reviews = list(project.view.reviews.values())
            if project_id == at_project:
                names = list(project.view.reviews)
                reviews = reviews[names.index(at_review) + 1 if at_review in names else 0 :]
            for review in reviews:
                if states and review.state not in states:
                    continue
                if not request.node_id or review.node_id == request.node_id:
                    yield project_id, review

    async def _with_reviews(
        self, states: frozenset[ReviewState.ValueType], start: str
    ) -> list[str]:
        """Return the projects, from `start` on, that have to be looked into.

        The others are not even loaded.
        """
        projects = self._service.projects
        if start and start not in projects:
            raise InvalidRequest(field="page_token", problem="is not from this service")
        only_open = states == {OPEN}
        found = [
            entity.project_id
            async for entity, _, _ in projects.entities(start)
            if (entity.open_review_count if only_open else entity.review_count)
        ]
        return [start, *found] if start else found
