"""Builds what an agent may look at from the run, and reads what it answers (S4.7).

An agent sees the overall goal, its ancestors, what it depends on or aggregates, and the siblings
that were done before it. Together they have at most `max_context_tokens` (estimated, see
`excerpt.py`): the overall goal and the node's own are always whole; ancestors get up to a quarter,
siblings up to a tenth, results all the rest. The same run gives the same input.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from orchestrator_svc.agents.base import (
    AgentInput,
    Output,
    Plan,
    PlannedTask,
    RelatedNode,
    Verdict,
)
from orchestrator_svc.engine.excerpt import fit, node_tokens, shortened, tokens_of
from orchestrator_svc.graph.checkpoint import instructions_of
from orchestrator_svc.graph.event import Call, Decided, Failed, Outcome, Planned, Produced
from orchestrator_svc.graph.node import Node, Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.text import is_text, storable
from orchestrator_svc.graph.types import ErrorClass, NodeState, Stage
from orchestrator_svc.publish.bodies import MAX_BODY_BYTES

MAX_RESULT_BYTES = MAX_BODY_BYTES
MAX_SUMMARY_CHARS = 4_096
MAX_CONTENT_TYPE_CHARS = 255
ANCESTORS_SHARE = 0.25  #: of the context, at most
SIBLINGS_SHARE = 0.1  #: of the context, at most
SIBLING_TOKENS = 256  #: of one sibling, at most
MAX_SIBLINGS_SEEN = 16  #: places before a node in its plan that are looked at
MAX_SIBLING_VIEWS = 4_096  #: kept of one run
_NOTHING: Mapping[str, Result] = {}


def missing_results(run: Run, call: Call) -> list[str]:
    """Return the nodes whose results the call needs and the run does not hold any more."""
    node = run.nodes[call.node_id]
    needed = node.depends_on
    if call.stage is Stage.AGGREGATE:
        needed = node.children
    elif call.stage is Stage.PLAN:
        needed = (*node.depends_on, *node.children)
    return [
        id_
        for id_ in needed
        if (other := run.nodes.get(id_))
        and other.state is NodeState.DONE
        and (other.result is None or other.result.digest)
    ]


def agent_input(
    run: Run,
    call: Call,
    *,
    project_id: str,
    options: dict[str, JsonValue],
    fetched: Mapping[str, Result] = _NOTHING,
    seen: SiblingViews | None = None,
) -> AgentInput:
    """Return the input of one call. Its parts come from checked data and are not checked again.

    `fetched` has the results that the run does not hold; `seen` is kept from call to call.
    """
    node = run.nodes[call.node_id]
    ancestors: list[RelatedNode] = []
    parent = run.nodes.get(node.parent_id)
    while parent is not None:
        ancestors.append(_related(parent))
        parent = run.nodes.get(parent.parent_id)
    aggregates = call.stage is Stage.AGGREGATE
    children = node.children if aggregates else ()
    limit = max(0, run.settings.max_context_tokens - tokens_of(run.goal) - tokens_of(node.goal))
    previous = node.children if call.stage is Stage.PLAN else ()
    above = fit(ancestors[::-1], int(limit * ANCESTORS_SHARE))
    before = (
        ()
        if aggregates
        else _siblings(run, node, int(limit * SIBLINGS_SHARE), seen or SiblingViews())
    )
    limit -= sum(map(node_tokens, above)) + sum(map(node_tokens, before))
    needed = _all_related(run, (*node.depends_on, *children, *previous), fetched)
    results = fit(needed, max(0, limit))
    count = sum(id_ in run.nodes for id_ in node.depends_on)
    return AgentInput.model_construct(
        project_id=project_id,
        node_id=node.node_id,
        attempt=call.attempt,
        goal=node.goal,
        task_type=node.task_type,
        node_type=node.node_type,
        layer=node.layer,
        max_depth=run.accounts.max_layer(node, run.settings.max_recursion_depth),
        overall_objective=run.goal,
        ancestors=above,
        dependencies=results[:count],
        siblings=before,
        children=() if previous else results[count:],
        replan_reason=node.replan_reason if call.stage is Stage.PLAN else "",
        previous=results[count:] if previous else (),
        details=dict(node.details),
        options=options,
        instructions=instructions_of(run, node, call.stage),
        proposal=_proposal(run, node) if call.stage is Stage.MODIFY else None,
    )


class SiblingViews:
    """Finished nodes as the siblings after them see them: each is made once, not for each."""

    def __init__(self) -> None:
        self._views: dict[str, tuple[Result | None, RelatedNode, int]] = {}

    def view(self, node: Node, limit: int) -> tuple[RelatedNode, int]:
        """Return a DONE node with at most `limit` tokens, and how many it has."""
        if limit < SIBLING_TOKENS:
            return _sibling(node, limit)
        known = self._views.get(node.node_id)
        if known is not None and known[0] is node.result:
            return known[1], known[2]
        if len(self._views) >= MAX_SIBLING_VIEWS:
            self._views.clear()
        related, tokens = _sibling(node, SIBLING_TOKENS)
        self._views[node.node_id] = (node.result, related, tokens)
        return related, tokens


def _sibling(node: Node, limit: int) -> tuple[RelatedNode, int]:
    related = _related(node)
    if related.output is not None:
        summary = related.output.summary or related.output.text[:MAX_SUMMARY_CHARS]
        output = Output.model_construct(
            content_type="text/plain", text="", data=b"", summary=summary
        )
        related = related.model_copy(update={"output": output})
    related = shortened(related, limit)
    return related, node_tokens(related)


def _siblings(run: Run, node: Node, limit: int, seen: SiblingViews) -> tuple[RelatedNode, ...]:
    """Return the siblings that were done before `node`, in plan order, the nearest if not all.

    They come with their summaries; what a node needs whole it depends on.
    """
    parent = run.nodes.get(node.parent_id)
    if parent is None:
        return ()
    found: list[RelatedNode] = []
    last = run.place_of(node)
    for id_ in reversed(parent.children[max(0, last - MAX_SIBLINGS_SEEN) : last]):
        other = run.nodes.get(id_)
        if other is None or other.state is not NodeState.DONE or id_ in node.depends_on:
            continue
        related, tokens = seen.view(other, limit)
        limit -= tokens
        if limit < 0:
            break
        found.append(related)
    return tuple(reversed(found))


def _proposal(run: Run, node: Node) -> Plan | None:
    """Return the plan that is to be changed."""
    review = run.reviews.get(node.review_id)
    if review is None or not isinstance(review.proposal, tuple):
        return None
    return Plan.model_construct(
        tasks=tuple(
            PlannedTask.model_construct(
                goal=task.goal,
                task_type=task.task_type,
                node_type=task.node_type,
                depends_on=task.depends_on,
                details=dict(task.details),
                budget=task.budget,
                reuse=task.reuse,
                on_exhausted=task.on_exhausted,
                on_dependency_failure=task.on_dependency_failure,
            )
            for task in review.proposal
        )
    )


def _all_related(
    run: Run, ids: Iterable[str], fetched: Mapping[str, Result]
) -> tuple[RelatedNode, ...]:
    return tuple(_related(run.nodes[i], fetched.get(i)) for i in ids if i in run.nodes)


def _related(node: Node, fetched: Result | None = None) -> RelatedNode:
    output = None
    result = fetched or node.result
    if node.state is NodeState.DONE and result is not None:
        output = Output.model_construct(
            content_type=result.content_type,
            text=result.text,
            data=result.data,
            summary=result.summary,
        )
    return RelatedNode.model_construct(
        node_id=node.node_id,
        goal=node.goal,
        task_type=node.task_type,
        state=str(node.state),
        output=output,
        error=f"{node.error.error_class}: {node.error.message}" if node.error else "",
        details=node.details,
    )


def outcome_of(answer: object) -> Outcome:
    """Return what an agent's answer means; an answer that cannot be stored is a failure."""
    if isinstance(answer, Output):
        problem = result_problem(answer)
        if problem:
            return Failed(ErrorClass.INVALID_OUTPUT, problem)
        summary = storable(answer.summary, MAX_SUMMARY_CHARS)
        return Produced(Result(answer.content_type, answer.text, answer.data, summary))
    if isinstance(answer, Verdict):
        return Decided(answer.node_type)
    if isinstance(answer, Plan):
        return Planned(
            tuple(
                DraftTask(
                    task.goal,
                    task.task_type,
                    task.node_type,
                    task.depends_on,
                    task.details,
                    task.budget,
                    task.reuse,
                    task.on_exhausted,
                    task.on_dependency_failure,
                    task.max_retries,
                )
                for task in answer.tasks
            )
        )
    return Failed(ErrorClass.INVALID_OUTPUT, f"the agent answered with {type(answer).__name__}")


def result_problem(output: Output) -> str:
    """Return why an output cannot be stored; empty if it can."""
    if output.text and output.data:
        return "the output has both text and data"
    if len(output.content_type) > MAX_CONTENT_TYPE_CHARS or not is_text(output.content_type):
        return "the output's content type is not a media type"
    if not is_text(output.text):
        return "the output's text is not valid Unicode"
    size = len(output.data) or len(output.text.encode())
    if size > MAX_RESULT_BYTES:
        return f"the output has {size} bytes, at most {MAX_RESULT_BYTES} are allowed"
    return ""
