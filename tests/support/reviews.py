"""Reviews of real services, as a client answers them."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import grpc

from ramify.v1.orchestrator_service_pb2 import ResolveReviewRequest, ResolveReviewResponse
from ramify.v1.review_pb2 import Review, ReviewDecision, ReviewState
from ramify.v1.state_service_pb2 import ListReviewsRequest
from tests.support.bound import WAIT_SECONDS
from tests.support.runs import Runs
from tests.support.wire import eventually

APPROVE = ReviewDecision.REVIEW_DECISION_APPROVE
MODIFY = ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION
REJECT = ReviewDecision.REVIEW_DECISION_REJECT
ABORT = ReviewDecision.REVIEW_DECISION_ABORT
ASKING = {"enable_hitl": True}  #: execution keys


async def open_reviews(runs: Runs, project_id: str) -> list[Review]:
    """Return what waits for a human, oldest first."""
    request = ListReviewsRequest(project_id=project_id, states=[ReviewState.REVIEW_STATE_OPEN])
    return [item.review for item in (await runs.wire.stub.ListReviews(request)).reviews]


async def asked(runs: Runs, project_id: str, count: int = 1) -> list[Review]:
    """Wait until so many reviews are open; return them."""

    async def enough() -> bool:
        return len(await open_reviews(runs, project_id)) == count

    await eventually(enough, f"{count} open reviews")
    return await open_reviews(runs, project_id)


async def resolve(
    runs: Runs,
    project_id: str,
    review_id: str,
    decision: ReviewDecision.ValueType,
    **fields: Any,
) -> ResolveReviewResponse:
    """Decide a review as `ada`, as often as it takes: a service may have just come back."""
    fields.setdefault("request_id", uuid.uuid4().hex)
    request = ResolveReviewRequest(
        project_id=project_id, review_id=review_id, decision=decision, actor="ada", **fields
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await runs.stub.ResolveReview(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.05)
