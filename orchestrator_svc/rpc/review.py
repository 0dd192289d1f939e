"""Decisions about reviews: checked here, made durable through state_svc, acted on by the holder."""

from __future__ import annotations

from orchestrator_svc.engine.supervisor import Supervisor
from orchestrator_svc.errors import InvalidRequest
from orchestrator_svc.graph.plan import check_plan
from orchestrator_svc.publish.client import StateClient
from orchestrator_svc.publish.review import read_plan
from orchestrator_svc.rpc.orders import check_request_id
from orchestrator_svc.settings import read_stored
from ramify.v1 import mutation_pb2
from ramify.v1 import orchestrator_service_pb2 as pb
from ramify.v1.review_pb2 import ReviewCheckpoint, ReviewDecision

MAX_TEXT_CHARS = 4_096
MAX_NAME_CHARS = 255


class ReviewDesk:
    """Takes decisions for any project, whichever orchestrator executes it (SEM 2, 19)."""

    def __init__(self, client: StateClient, supervisor: Supervisor) -> None:
        self._client = client
        self._supervisor = supervisor

    async def resolve(self, request: pb.ResolveReviewRequest) -> pb.ResolveReviewResponse:
        """Make a decision durable; return the review as it is then.

        Raises `ReviewClosed` if it was decided before, `VersionConflict` for another etag,
        `ReviewNotFound` or `InvalidRequest`. A request that was answered before gets its first
        answer again.
        """
        _check(request)
        review, _ = await self._client.get_review(request.project_id, request.review_id)
        modifies = request.decision == ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION
        if modifies and review.checkpoint == ReviewCheckpoint.REVIEW_CHECKPOINT_BUDGET:
            problem = "a budget is raised or not: approve, reject or abort"
            raise InvalidRequest(problem, field="decision")
        if request.HasField("modified_plan"):
            await self._check_plan(request, review.node_id)
        mutation = mutation_pb2.ReviewMutation(review_id=request.review_id)
        if request.etag:
            mutation.expected_version = request.etag
        decision = mutation.resolve
        decision.decision = request.decision
        decision.instructions = request.instructions
        decision.comment = request.comment
        decision.actor = request.actor
        if request.HasField("modified_plan"):
            decision.modified_plan.CopyFrom(request.modified_plan)
        revision = await self._client.resolve_review(
            request.project_id, mutation, request_id=request.request_id, actor=request.actor
        )
        self._supervisor.take_up(request.project_id)
        review, _ = await self._client.get_review(request.project_id, request.review_id)
        return pb.ResolveReviewResponse(review=review, revision=revision)

    async def _check_plan(self, request: pb.ResolveReviewRequest, node_id: str) -> None:
        """Refuse a plan that could not be carried out, with every reason."""
        project = await self._client.get_project(request.project_id)
        node = await self._client.get_node(request.project_id, node_id)
        settings = self._supervisor.settings_of(read_stored(project.settings))
        problems = check_plan(
            read_plan(request.modified_plan),
            layer=node.layer,
            max_depth=settings.max_recursion_depth,
            objective=project.goal,
        )
        if problems:
            raise InvalidRequest("; ".join(problems), field="modified_plan")


def _check(request: pb.ResolveReviewRequest) -> None:
    check_request_id(request.request_id)
    for name in ("project_id", "review_id", "decision"):
        if not getattr(request, name):
            raise InvalidRequest("is needed", field=name)
    if request.decision not in ReviewDecision.values():
        raise InvalidRequest(f"{request.decision} is not a decision", field="decision")
    for name, most in (
        ("instructions", MAX_TEXT_CHARS),
        ("comment", MAX_TEXT_CHARS),
        ("actor", MAX_NAME_CHARS),
    ):
        if len(getattr(request, name)) > most:
            raise InvalidRequest(f"at most {most} characters", field=name)
    asks = request.decision == ReviewDecision.REVIEW_DECISION_REQUEST_MODIFICATION
    if asks != bool(request.instructions.strip()):
        problem = "are needed to say what to change" if asks else "are for REQUEST_MODIFICATION"
        raise InvalidRequest(problem, field="instructions")
    approves = request.decision == ReviewDecision.REVIEW_DECISION_APPROVE
    if request.HasField("modified_plan") and not approves:
        raise InvalidRequest("is only for APPROVE", field="modified_plan")
