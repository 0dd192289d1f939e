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
from orchestrator_svc.engine.trusted import trusted
from orchestrator_svc.graph.checkpoint import instructions_of
from orchestrator_svc.graph.event import Call, Decided, Failed, Outcome, Planned, Produced
from orchestrator_svc.graph.node import Node, Result
from orchestrator_svc.graph.plan import DraftTask
from orchestrator_svc.graph.run import Run
from orchestrator_svc.graph.text import is_text, storable
from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, Stage
from orchestrator_svc.publish.bodies import MAX_BODY_BYTES

MAX_RESULT_BYTES = MAX_BODY_BYTES
MAX_SUMMARY_CHARS = 4_096
MAX_CONTENT_TYPE_CHARS = 255
ANCESTORS_SHARE = 0.25  #: of the context, at most
SIBLINGS_SHARE = 0.1  #: of the context, at most
SIBLING_TOKENS = 256  #: of one sibling, at most
MAX_SIBLINGS_SEEN = 16  #: places before a node in its plan that are looked at
MAX_VIEWS = 4_096  #: of each kind, kept of one run
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
    seen: Views | None = None,
) -> AgentInput:
    """Return the input of one call. Its parts come from checked data and are not checked again.

    `fetched` has the results that the run does not hold; `seen` is kept from call to call.
    """
    node = run.nodes[call.node_id]
    seen = seen or Views()
    aggregates = call.stage is Stage.AGGREGATE
    children = node.children if aggregates else ()
    limit = max(0, run.settings.max_context_tokens - tokens_of(run.goal) - tokens_of(node.goal))
    previous = node.children if call.stage is Stage.PLAN else ()
    above, used = seen.above(run, node, int(limit * ANCESTORS_SHARE))
    before: tuple[RelatedNode, ...] = ()
    if not aggregates:
        before, more = _siblings(run, node, int(limit * SIBLINGS_SHARE), seen)
        used += more
    results: tuple[RelatedNode, ...] = ()
    count = 0
    if node.depends_on or children or previous:
        needed = _all_related(run, (*node.depends_on, *children, *previous), fetched)
        results = fit(needed, max(0, limit - used))
        count = sum(id_ in run.nodes for id_ in node.depends_on)
    return trusted(
        AgentInput,
        project_id=project_id,
        node_id=node.node_id,
        attempt=call.attempt,
        goal=node.goal,
        task_type=node.task_type,
        node_type=node.node_type,
        layer=node.layer,
        max_depth=run.max_layer(node),
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


class Views:
    """Nodes as others see them; each is made once, not for each that sees it."""

    def __init__(self) -> None:
        self._siblings: dict[str, tuple[object, RelatedNode, int]] = {}
        self._above: dict[str, tuple[list[object], tuple[RelatedNode, ...], int]] = {}

    def sibling(self, node: Node, limit: int) -> tuple[RelatedNode, int]:
        """Return a DONE node with at most `limit` tokens, and how many it has."""
        if limit < SIBLING_TOKENS:
            return _sibling(node, limit)
        # Not the result itself: the run lets results go, and this would keep them.
        mark = (node.agent_calls, node.reviews, node.forced, node.result is None)
        known = self._siblings.get(node.node_id)
        if known is not None and known[0] == mark:
            return known[1], known[2]
        if len(self._siblings) >= MAX_VIEWS:
            self._siblings.clear()
        related, tokens = _sibling(node, SIBLING_TOKENS)
        self._siblings[node.node_id] = (mark, related, tokens)
        return related, tokens

    def above(self, run: Run, node: Node, limit: int) -> tuple[tuple[RelatedNode, ...], int]:
        """Return the ancestors of a node with at most `limit` tokens, and how many they have."""
        chain: list[Node] = []
        parent = run.nodes.get(node.parent_id)
        while parent is not None:
            chain.append(parent)
            parent = run.nodes.get(parent.parent_id)
        shown: list[object] = [item for n in chain for item in (n.state, n.result, n.error)]
        known = self._above.get(node.parent_id)
        if known is None or known[0] != shown:
            if len(self._above) >= MAX_VIEWS:
                self._above.clear()
            related = tuple(_related(ancestor) for ancestor in reversed(chain))
            known = shown, related, sum(map(node_tokens, related))
            self._above[node.parent_id] = known
        if known[2] <= limit:
            return known[1], known[2]
        above = fit(known[1], limit)
        return above, sum(map(node_tokens, above))


def _sibling(node: Node, limit: int) -> tuple[RelatedNode, int]:
    related = _related(node, summarized=True)
    tokens = node_tokens(related)
    if tokens * 4 <= limit:  # then none of its parts is too long
        return related, tokens
    related = shortened(related, limit)
    return related, node_tokens(related)


def _siblings(run: Run, node: Node, limit: int, seen: Views) -> tuple[tuple[RelatedNode, ...], int]:
    """Return the siblings that were done before `node`, in plan order, the nearest if not all.

    They come with their summaries; what a node needs whole it depends on. Also: their tokens.
    """
    parent = run.nodes.get(node.parent_id)
    if parent is None:
        return (), 0
    found: list[RelatedNode] = []
    left = limit
    last = run.place_of(node)
    nodes, needed, done = run.nodes, node.depends_on, NodeState.DONE
    for id_ in reversed(parent.children[max(0, last - MAX_SIBLINGS_SEEN) : last]):
        other = nodes.get(id_)
        if other is None or other.state is not done or id_ in needed:
            continue
        related, tokens = seen.sibling(other, left)
        if tokens > left:
            break
        left -= tokens
        found.append(related)
    return tuple(reversed(found)), limit - left


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
                max_retries=task.max_retries,
            )
            for task in review.proposal
        )
    )


def _all_related(
    run: Run, ids: Iterable[str], fetched: Mapping[str, Result]
) -> tuple[RelatedNode, ...]:
    return tuple(_related(run.nodes[i], fetched.get(i)) for i in ids if i in run.nodes)


def _related(node: Node, fetched: Result | None = None, *, summarized: bool = False) -> RelatedNode:
    """Return a node as another one sees it; with a summary of its result, if so asked for."""
    output = None
    result = fetched or node.result
    if node.state is NodeState.DONE and result is not None:
        if summarized:
            summary = result.summary or result.text[:MAX_SUMMARY_CHARS] or result.excerpt
            output = trusted(Output, content_type="text/plain", text="", data=b"", summary=summary)
        else:
            output = trusted(
                Output,
                content_type=result.content_type,
                text=result.text,
                data=result.data,
                summary=result.summary,
            )
    return trusted(
        RelatedNode,
        node_id=node.node_id,
        goal=node.goal,
        task_type=node.task_type,
        state=str(node.state),
        output=output,
        error=f"{node.error.error_class}: {node.error.message}" if node.error else "",
        shortened=summarized,
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
        return Decided(NodeType(answer.node_type))
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
