"""RPCs about reviews: one, and many of one project or of all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ramify.v1.review_pb2 import Review, ReviewState
from ramify.v1.state_service_pb2 import (
    GetReviewRequest,
    GetReviewResponse,
    ListReviewsRequest,
    ListReviewsResponse,
)
from state_svc.errors import CorruptRecord, InvalidRequest, ProjectNotFound, ReviewNotFound
from state_svc.model.project import View
from state_svc.model.review import OPEN
from state_svc.rpc.convert import MAX_PAGE_BYTES, check_enum, page_size
from state_svc.service import Service

_log = logging.getLogger(__name__)
_SEPARATOR = "|"  #: of a page token; no id has it
_WHOLE = "|"  #: in place of a review in a page token: all of the project has been looked at
_MAX_PEEKS = 10  #: projects that are not in memory and are looked into for one page


class ReviewRpcs:
    """Handlers by RPC name."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._peeking = asyncio.Semaphore(1)  #: each holds a whole project while it lasts

    async def get_review(self, request: GetReviewRequest) -> GetReviewResponse:
        """Return one review as it is committed."""
        project = await self._service.live(request.project_id)
        review = project.view.reviews.get(request.review_id)
        if review is None:
            raise ReviewNotFound(project_id=request.project_id, review_id=request.review_id)
        return GetReviewResponse(review=review, revision=project.view.revision)

    async def list_reviews(self, request: ListReviewsRequest) -> ListReviewsResponse:
        """Return one page; the token names the last review that was looked at.

        A page ends when so many projects were read from the store for it, whatever was found.
        """
        size = page_size(request.page_size)
        check_enum("states", request.states, ReviewState.values())
        response = ListReviewsResponse()
        taken = 0
        place = ""
        async with aclosing(self._selected(request)) as selected:
            async for project_id, review in selected:
                if review is None:
                    response.next_page_token = _SEPARATOR.join((project_id, _WHOLE))
                    break
                taken += review.ByteSize()
                if len(response.reviews) == size or (response.reviews and taken > MAX_PAGE_BYTES):
                    response.next_page_token = place
                    break
                response.reviews.add(project_id=project_id, review=review)
                place = _SEPARATOR.join((project_id, review.review_id))
        return response

    async def _selected(
        self, request: ListReviewsRequest
    ) -> AsyncGenerator[tuple[str, Review | None], None]:
        """Yield (project, review), and (last project, None) if enough was read for a page."""
        at_project, _, at_review = request.page_token.partition(_SEPARATOR)
        states = frozenset(request.states)
        if request.project_id:
            projects = [request.project_id]
        else:
            projects = await self._with_reviews(states, at_project)
        peeks, before = 0, ""
        for project_id in projects:
            if project_id == at_project and at_review == _WHOLE:
                continue
            if self._service.projects.loaded(project_id) is None:
                if peeks == _MAX_PEEKS:
                    yield before, None
                    return
                peeks += 1
            before = project_id
            try:
                view = await self._view(project_id)
            except ProjectNotFound:
                if request.project_id:
                    raise
                continue  # deleted since
            except CorruptRecord as error:
                if request.project_id:
                    raise
                _log.error("project cannot be read", extra={"fields": error.fields})
                continue
            reviews = list(view.reviews.values())
            if project_id == at_project:
                names = list(view.reviews)
                reviews = reviews[names.index(at_review) + 1 if at_review in names else 0 :]
            for review in reviews:
                if states and review.state not in states:
                    continue
                if not request.node_id or review.node_id == request.node_id:
                    yield project_id, review

    async def _view(self, project_id: str) -> View:
        if not project_id:
            raise ProjectNotFound(project_id="")
        if self._service.projects.loaded(project_id) is not None:
            return (await self._service.live(project_id)).view
        async with self._peeking:
            return await self._service.projects.peek(project_id)

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
