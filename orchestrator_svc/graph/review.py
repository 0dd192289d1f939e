"""A review as a run holds it (SEM 27), and all reviews of a run by their ids.

state_svc decides who closes a review first. So a run never closes one by itself: it asks for the
expiry or the withdrawal, and acts on what the project's watch then says.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator_svc.graph.node import Result
from orchestrator_svc.graph.plan import DraftTask, bounded_id
from orchestrator_svc.graph.settings import ExpiryPolicy
from orchestrator_svc.graph.types import NodeType

WAITING_PREFIX = "review:"  #: of `Node.waiting_on` of a node that waits for a review
MAX_ESCALATIONS = 5


class Checkpoint(enum.StrEnum):
    """Where in a node's life a human is asked."""

    PLAN_GENERATION = "PLAN_GENERATION"
    PLAN_MODIFICATION = "PLAN_MODIFICATION"
    ATOMIZATION = "ATOMIZATION"
    BEFORE_EXECUTION = "BEFORE_EXECUTION"
    AGGREGATION_REVIEW = "AGGREGATION_REVIEW"
    EXHAUSTED = "EXHAUSTED"  #: asked by the policy `on_exhausted`, for a node that has failed
    BUDGET = "BUDGET"  #: asked by `budget_policy`, for the node that has the budget


#: A modified plan takes the place of the plan that it was made from.
PLAN_CHECKPOINTS = frozenset({Checkpoint.PLAN_GENERATION, Checkpoint.PLAN_MODIFICATION})


class ReviewState(enum.StrEnum):
    """Lifecycle of a review; the legal moves are options of the enum in the contract."""

    OPEN = "OPEN"
    RESOLVED = "RESOLVED"
    EXPIRED = "EXPIRED"
    WITHDRAWN = "WITHDRAWN"


class ReviewDecision(enum.StrEnum):
    """What a human answers, or the policy of an expired review."""

    APPROVE = "APPROVE"
    REQUEST_MODIFICATION = "REQUEST_MODIFICATION"
    REJECT = "REJECT"
    ABORT = "ABORT"


#: Children of a plan, an atomizer's verdict, an aggregator's result; None where a human only says
#: whether something may happen.
Proposal = tuple[DraftTask, ...] | NodeType | Result | None


@dataclass(frozen=True, slots=True)
class Answer:
    """How a review was closed."""

    state: ReviewState
    decision: ReviewDecision | None = None  #: None: withdrawn, or of a newer version
    instructions: str = ""
    modified_plan: tuple[DraftTask, ...] | None = None
    actor: str = ""
    comment: str = ""


@dataclass(slots=True, kw_only=True)
class Review:
    """One question to a human about one proposal, which never changes."""

    review_id: str
    node_id: str
    checkpoint: Checkpoint
    attempt: int = 1  #: counts the proposals at this place
    message: str = ""
    proposal: Proposal = None
    agent_name: str = ""
    expire_time: float | None = None  #: Unix seconds; None: never
    expiry_policy: ExpiryPolicy = ExpiryPolicy.PARK
    overdue: bool = False
    escalations: int = 0
    answer: Answer | None = None  #: None while it is open

    @property
    def waiting_on(self) -> str:
        """What the node's `waiting_on` says while it waits for this review."""
        return WAITING_PREFIX + self.review_id

    @property
    def next_due(self) -> float | None:
        """When the expiry policy acts next; None: never."""
        if self.answer is not None:
            return None
        escalates = self.expiry_policy is ExpiryPolicy.ESCALATE
        if self.overdue and not (escalates and self.escalations < MAX_ESCALATIONS):
            return None
        return self.expire_time

    @property
    def asks_again(self) -> bool:
        """Whether the answer was to propose something else."""
        answer = self.answer
        return answer is not None and answer.decision is ReviewDecision.REQUEST_MODIFICATION

    @property
    def lets_go_on(self) -> bool:
        """Whether the answer was to do what was asked about, perhaps with instructions."""
        decision = self.answer.decision if self.answer is not None else None
        return decision in (ReviewDecision.APPROVE, ReviewDecision.REQUEST_MODIFICATION)


def review_id(node_id: str, number: int) -> str:
    """Return the id of a node's n-th review, from 1."""
    return bounded_id(f"{node_id}.r{number}")


class ReviewBook:
    """The reviews of a run that some node still needs, and when they expire."""

    def __init__(self, reviews: Iterable[Review] = ()) -> None:
        self._reviews: dict[str, Review] = {}
        self._open: set[str] = set()
        self._due: list[tuple[float, str]] = []
        self._asked: set[str] = set()  #: expiries asked for, whose outcome the watch will tell
        for review in reviews:
            self.add(review)

    @property
    def any_open(self) -> bool:
        """Whether a human is being asked."""
        return bool(self._open)

    def get(self, review_id: str) -> Review | None:
        """Return a review."""
        return self._reviews.get(review_id)

    def is_open(self, review_id: str) -> bool:
        """Return whether a review waits for an answer."""
        return review_id in self._open

    def open(self) -> list[Review]:
        """Return those that wait for an answer."""
        return [self._reviews[review_id] for review_id in sorted(self._open)]

    def add(self, review: Review) -> None:
        """Add a new or loaded review."""
        self._reviews[review.review_id] = review
        if review.answer is None:
            self._open.add(review.review_id)
            self.arm(review)

    def forget(self, review_id: str) -> None:
        """Drop a closed review that no node needs any more."""
        review = self._reviews.get(review_id)
        if review is not None and review.answer is not None:
            del self._reviews[review_id]

    def arm(self, review: Review) -> None:
        """Note when the review's policy acts next."""
        due = review.next_due
        if due is not None:
            heapq.heappush(self._due, (due, review.review_id))

    def close(self, review: Review, answer: Answer) -> None:
        """Note how a review was closed."""
        review.answer = answer
        self._open.discard(review.review_id)
        self._asked.discard(review.review_id)

    def expiring(self, review: Review) -> None:
        """Note that the review's end was asked for: its policy does not act again."""
        self._asked.add(review.review_id)

    def next_due(self) -> float | None:
        """Return when the first policy acts, in Unix seconds; None if none does."""
        while self._due:
            due, review_id = self._due[0]
            review = self._reviews.get(review_id)
            if review is not None and review.next_due == due and review_id not in self._asked:
                return due
            heapq.heappop(self._due)
        return None

    def pop_due(self, now: float) -> list[Review]:
        """Return the reviews whose policy acts now; the caller changes or re-arms them."""
        due: list[Review] = []
        while (at := self.next_due()) is not None and at <= now:
            due.append(self._reviews[heapq.heappop(self._due)[1]])
        return due
