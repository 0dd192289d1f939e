"""What the end of a review means for its node: the only place where an approval has an effect."""

from __future__ import annotations

from dataclasses import replace

from orchestrator_svc.graph.adopt import adopt_plan, reuse_problems
from orchestrator_svc.graph.cancel import cancel_run
from orchestrator_svc.graph.checkpoint import ask, ask_to_try_again
from orchestrator_svc.graph.event import ReviewClosed
from orchestrator_svc.graph.failure import fresh_start
from orchestrator_svc.graph.mutation import NodeChanges
from orchestrator_svc.graph.node import Failure, Node, Result
from orchestrator_svc.graph.plan import DraftTask, check_plan
from orchestrator_svc.graph.review import (
    PLAN_CHECKPOINTS,
    Answer,
    Checkpoint,
    Review,
    ReviewDecision,
    ReviewState,
)
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.settle import finish
from orchestrator_svc.graph.staging import next_child_id
from orchestrator_svc.graph.text import storable
from orchestrator_svc.graph.types import ErrorClass, NodeState, ProjectState

MAX_ERROR_CHARS = 4_096


def review_closed(run: Run, event: ReviewClosed) -> None:
    """Act on what the watch says; a review that no node waits for any more is void."""
    review = run.reviews.get(event.review_id)
    if review is None or review.answer is not None:
        return
    run.reviews.close(review, event.answer)
    node = run.nodes.get(review.node_id)
    if node is None:
        return
    if node.waiting_on == review.waiting_on or node.allowance.review_id == review.review_id:
        act(run, node, review, event.answer)


def act(run: Run, node: Node, review: Review, answer: Answer) -> None:
    """Do what was decided about a node that waits for it.

    What needs an agent is only put into the queue: the node waits until `dispatch` begins the
    call, so that the answer is found again if this process dies before.
    """
    if run.ended or run.state is ProjectState.CANCELLING:
        return
    decision = answer.decision
    if decision is ReviewDecision.ABORT:
        cancel_run(run)
    elif review.checkpoint is Checkpoint.BUDGET:
        _budget_answered(run, node, review, answer)
    elif review.checkpoint is Checkpoint.EXHAUSTED and review.lets_go_on:
        fresh_start(run, node, NodeChanges(waiting_on=""), run.clock)
    elif review.checkpoint is Checkpoint.EXHAUSTED and node.error is not None:
        if decision is ReviewDecision.REJECT:
            finish(run, node, state=NodeState.FAILED, error=node.error)
        else:
            ask_to_try_again(run, node, node.error)
    elif decision is ReviewDecision.REJECT:
        finish(run, node, state=NodeState.FAILED, error=_rejected(answer))
    elif decision is ReviewDecision.APPROVE and review.checkpoint in PLAN_CHECKPOINTS:
        _adopt(run, node, review, answer)
    elif decision is ReviewDecision.APPROVE and isinstance(review.proposal, Result):
        changes = NodeChanges(state=NodeState.DONE, result=review.proposal)
        finish(run, node, **changes)
    elif decision in (ReviewDecision.APPROVE, ReviewDecision.REQUEST_MODIFICATION):
        run.queue.append(node.node_id)
    else:
        note = f"Review {review.review_id} was withdrawn without a decision."
        ask(run, node, review.checkpoint, review.proposal, note)


def _budget_answered(run: Run, owner: Node, review: Review, answer: Answer) -> None:
    """Raise a budget, or fail what it forbids; whatever waits for the answer gets its turn."""
    run.reviews.forget(review.review_id)
    allowance = owner.allowance
    if answer.decision is ReviewDecision.APPROVE:
        allowance = run.accounts.raised(owner, run.clock)
    elif answer.decision is ReviewDecision.REJECT:
        allowance = replace(allowance, final=True, short=0)  # a smaller plan may still fit
    run.patch(owner, allowance=replace(allowance, review_id=""))
    run.release_held()


def _adopt(run: Run, node: Node, review: Review, answer: Answer) -> None:
    proposed = review.proposal if isinstance(review.proposal, tuple) else ()
    tasks = answer.modified_plan if answer.modified_plan is not None else proposed
    problems = plan_problems(run, node, tasks)
    if problems:
        note = "The approved plan is not valid: " + "; ".join(problems)
        ask(run, node, review.checkpoint, review.proposal, note)
    else:
        adopt_plan(run, node, tasks)


def plan_problems(
    run: Run, node: Node, tasks: tuple[DraftTask, ...], *, room: bool = True
) -> list[str]:
    """Return every reason why tasks cannot become the node's children.

    That there is no `room` for so many in a budget of nodes may be left out.
    """
    new = [task.budget for task in tasks if not task.reuse]
    return [
        *check_plan(
            tasks,
            layer=node.layer,
            max_depth=run.max_layer(node),
            objective=run.goal,
            id_chars=next_child_id(node),
        ),
        *reuse_problems(run, node, tasks),
        *run.accounts.plan_problems(node, new, run.clock, room=room),
    ]


def modification_failed(run: Run, node: Node, message: str) -> None:
    """Show the human the proposal again with the reason why it is still the same."""
    review = run.reviews.get(node.review_id)
    if review is None:
        return
    plan = review.checkpoint in PLAN_CHECKPOINTS
    checkpoint = Checkpoint.PLAN_MODIFICATION if plan else review.checkpoint
    ask(run, node, checkpoint, review.proposal, f"It could not be changed as requested: {message}")


def _rejected(answer: Answer) -> Failure:
    who = f" by {answer.actor}" if answer.actor else ""
    if answer.state is ReviewState.EXPIRED:
        who = ": nobody answered in time"
    why = f": {answer.comment}" if answer.comment else ""
    text = f"rejected{who}{why}"
    return Failure(ErrorClass.REJECTED, storable(text, MAX_ERROR_CHARS))


def take_up_review(run: Run, node: Node) -> None:
    """Go on with a loaded node that waits for a review, open or closed meanwhile."""
    review = run.reviews.get(node.review_id)
    if review is not None and review.answer is not None:
        act(run, node, review, review.answer)


def take_up_budget(run: Run, node: Node) -> None:
    """Go on with the question about a loaded node's budget; one that is not there is void."""
    review = run.reviews.get(node.allowance.review_id)
    if review is None:
        run.patch(node, allowance=replace(node.allowance, review_id=""))
    elif review.answer is not None:
        act(run, node, review, review.answer)
