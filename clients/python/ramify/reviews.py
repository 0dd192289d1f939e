"""The calls of a client about reviews."""

from collections.abc import AsyncGenerator, Sequence

from ramify.calls import PAGE_SIZE, new_request_id
from ramify.connection import Connection
from ramify.v1 import orchestrator_service_pb2 as orchestrator_pb2
from ramify.v1 import state_service_pb2 as state_pb2
from ramify.v1.review_pb2 import ProposedPlan, Review, ReviewDecision, ReviewState


class Reviews(Connection):
    """Calls that find reviews and decide them."""

    async def get_review(self, project_id: str, review_id: str) -> Review:
        """Return one review, open or closed."""
        request = state_pb2.GetReviewRequest(project_id=project_id, review_id=review_id)
        return (await self._ask_state(self._state.GetReview, request)).review

    async def list_reviews(
        self,
        project_id: str = "",
        *,
        states: Sequence[ReviewState.ValueType] = (),
        node_id: str = "",
    ) -> AsyncGenerator[state_pb2.ListedReview, None]:
        """Yield the reviews of a project, or of all projects, oldest first."""
        request = state_pb2.ListReviewsRequest(
            project_id=project_id, page_size=PAGE_SIZE, states=states, node_id=node_id
        )
        while True:
            page = await self._ask_state(self._state.ListReviews, request)
            for item in page.reviews:
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def resolve_review(
        self,
        project_id: str,
        review_id: str,
        decision: ReviewDecision.ValueType,
        *,
        etag: int = 0,
        instructions: str = "",
        modified_plan: ProposedPlan | None = None,
        comment: str = "",
        request_id: str = "",
    ) -> Review:
        """Decide an open review; return it as it is then. The decision is durable on return.

        With `etag`, the review's version, raises `VersionConflictError` if it has changed since.
        Raises `ReviewClosedError` if it was decided before; the message says what and by whom.
        """
        request = orchestrator_pb2.ResolveReviewRequest(
            project_id=project_id,
            review_id=review_id,
            etag=etag,
            decision=decision,
            instructions=instructions,
            modified_plan=modified_plan,
            comment=comment,
            request_id=request_id or new_request_id(),
            actor=self._actor,
        )
        return (await self._ask_orchestrator(self._orchestrator.ResolveReview, request)).review
