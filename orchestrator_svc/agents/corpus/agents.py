"""The corpus agents: atomizer, planner, modifier, executor and aggregator of extractive research.

They keep nothing between calls. What a planner decides travels in the details of its children,
what an executor finds in its output, so a run continues in another process as if nothing happened.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    ErrorClass,
    NodeType,
    Output,
    Plan,
    PlannedTask,
    RelatedNode,
    TaskType,
    Verdict,
)
from orchestrator_svc.agents.corpus.clause import as_heading, split_clauses
from orchestrator_svc.agents.corpus.errors import invalid_output, no_evidence
from orchestrator_svc.agents.corpus.findings import ClauseFindings, Findings, merge
from orchestrator_svc.agents.corpus.index import Index, IndexCache
from orchestrator_svc.agents.corpus.messages import (
    JSON,
    MARKDOWN,
    Assignment,
    Candidates,
    Options,
    Role,
    Selection,
    read_message,
)
from orchestrator_svc.agents.corpus.planning import (
    clause_plan,
    clause_task,
    facet_tasks,
    quote_task,
    step_tasks,
)
from orchestrator_svc.agents.corpus.report import (
    failure_text,
    gap_text,
    parse,
    render_findings,
    render_report,
    summarise,
)
from orchestrator_svc.agents.corpus.research import Evidence, investigate
from orchestrator_svc.agents.corpus.selection import candidates, findings_of, select
from orchestrator_svc.agents.edits import edited

log = logging.getLogger(__name__)

M = TypeVar("M", Candidates, Selection)

MAX_STUDIED = 32  #: clauses whose evidence is kept in memory; the oldest is searched again
_STEPS = (Role.SEARCH, Role.THINK, Role.WRITE)


class CorpusAgents:
    """All five agent roles over one corpus per project; see `Options` for what they read.

    Safe to share between projects and threads. Work that reads the disk runs in a thread.
    """

    def __init__(self) -> None:
        self._indexes = IndexCache()
        self._studied: OrderedDict[tuple[str, str, tuple[str, ...]], Evidence] = OrderedDict()
        self._lock = threading.Lock()  # guards `_studied`, which only saves work

    async def atomize(self, task: AgentInput) -> Verdict:
        """Return PLAN for a question, clause or facet above the depth limit, else EXECUTE."""
        _refuse_instructions(task)
        assignment = Assignment.of(task)
        if task.layer >= task.max_depth:
            return Verdict(node_type=NodeType.EXECUTE, reason="at the depth limit")
        if assignment and assignment.role in _STEPS:
            return Verdict(node_type=NodeType.EXECUTE, reason=f"a {assignment.role} step is atomic")
        if task.node_type is not None:
            return Verdict(node_type=task.node_type, reason="decided by the plan")
        if (
            assignment is None
            and task.layer
            and task.task_type not in (TaskType.WRITE, TaskType.AGGREGATE)
        ):
            return Verdict(node_type=NodeType.EXECUTE, reason=f"{task.task_type} is one step")
        return Verdict(node_type=NodeType.PLAN, reason="has clauses and facets to research")

    async def plan(self, task: AgentInput) -> Plan:
        """Return the children of a question, clause or facet; NO_EVIDENCE when there are none."""
        return await asyncio.to_thread(self._plan, task)

    async def modify(self, task: AgentInput) -> Plan:
        """Return the proposed plan without some parts, or with a question more.

        What `edits.py` does not understand, and a question that the corpus has no evidence for,
        are errors that say so.
        """
        return await asyncio.to_thread(self._modify, task)

    async def execute(self, task: AgentInput) -> Output:
        """Return the output of one step, or a whole passage for a node without a plan."""
        return await asyncio.to_thread(self._execute, task)

    async def aggregate(self, task: AgentInput) -> Output:
        """Return the merged findings of the children, for the root as the report."""
        _refuse_instructions(task)
        assignment = Assignment.of(task)
        parts: list[Findings] = []
        for child in task.children:
            if child.state == "DONE":
                parts.extend(_child_findings(child))
            elif gap := _gap_of(child):
                heading = assignment.clause if assignment else task.goal
                parts.append((ClauseFindings(as_heading(heading), gaps=(gap,)),))
        return _findings_output(task, merge(parts))

    def _plan(self, task: AgentInput) -> Plan:
        assignment = Assignment.of(task)
        with self._open(task, assignment) as index:
            if assignment and assignment.role is Role.FACET:
                evidence = self._study(index, assignment.clause, assignment.earlier)
                return Plan(tasks=tuple(step_tasks(assignment, " · ".join(evidence.terms))))
            if assignment:
                evidence = self._study(index, assignment.clause, assignment.earlier)
                if not evidence.excerpts:
                    raise _nothing(task, [evidence])
                tasks = _research_tasks(assignment, evidence, task)
                return Plan(tasks=tuple(tasks))
            clauses = split_clauses(task.goal)
            studied = [
                self._study(index, clause, clauses[:number])
                for number, clause in enumerate(clauses)
            ]
            if not any(evidence.excerpts for evidence in studied):
                raise _nothing(task, studied)
            if len(clauses) > 1 and task.layer + 1 < task.max_depth:
                return clause_plan(clauses, index.key)
            tasks = []
            for number, (clause, evidence) in enumerate(zip(clauses, studied, strict=True)):
                made = Assignment(
                    role=Role.CLAUSE,
                    clause=clause,
                    earlier=tuple(clauses[:number]),
                    index=index.key,
                )
                tasks += _research_tasks(made, evidence, task, first=len(tasks))
            return Plan(tasks=tuple(tasks))

    def _modify(self, task: AgentInput) -> Plan:
        if task.proposal is None:
            raise AgentError(ErrorClass.EXECUTION, "there is no plan to change")
        first = Assignment.model_validate(task.proposal.tasks[0].details)

        def make(goal: str) -> PlannedTask:
            clause = Assignment(role=Role.CLAUSE, clause=goal, index=first.index)
            with self._open(task, clause) as index:
                evidence = self._study(index, goal, ())
            if not evidence.excerpts:
                raise _nothing(task, [evidence])
            return clause_task(clause, plan=task.layer + 1 < task.max_depth)

        return edited(task.proposal, task.instructions, make)

    def _execute(self, task: AgentInput) -> Output:
        _refuse_instructions(task)
        if task.task_type in (TaskType.CODE_INTERPRET, TaskType.IMAGE_GENERATION):
            raise AgentError(
                ErrorClass.EXECUTION, f"the corpus agents do not do {task.task_type} work"
            )
        assignment = Assignment.of(task)
        role = assignment.role if assignment else None
        if task.task_type is TaskType.SEARCH or role is Role.SEARCH:
            return self._search(task, assignment)
        if task.task_type is TaskType.THINK or role is Role.THINK:
            found = _settled(task, Candidates)
            return _selection_output(
                select(found[0] if found else self._candidates(task, assignment))
            )
        selections = _settled(task, Selection)
        if selections:
            return _findings_output(task, merge([findings_of(chosen) for chosen in selections]))
        return _findings_output(task, self._retrieve(task, assignment))

    def _search(self, task: AgentInput, assignment: Assignment | None) -> Output:
        found = self._candidates(task, assignment)
        quotes = sum(len(section.quotes) for section in found.sections)
        return Output(
            content_type=JSON,
            text=found.model_dump_json(indent=1),
            summary=f"{quotes} quotes in {len(found.sections)} sections, "
            f"best in {found.sections[0].name}"[:2_000],
        )

    def _candidates(self, task: AgentInput, assignment: Assignment | None) -> Candidates:
        clause = assignment.clause if assignment else task.goal
        earlier = assignment.earlier if assignment else ()
        facet = assignment.facet if assignment else None
        with self._open(task, assignment) as index:
            evidence = self._study(index, clause, earlier)
        found = candidates(evidence, clause, facet)
        if found is None:
            raise _nothing(task, [evidence])
        return found

    def _retrieve(self, task: AgentInput, assignment: Assignment | None) -> Findings:
        """Search, choose and quote in one go, for a node that may not be planned."""
        if assignment:
            clauses, earlier = [assignment.clause], list(assignment.earlier)
        else:
            clauses, earlier = split_clauses(task.goal), []
        parts: list[Findings] = []
        studied: list[Evidence] = []
        with self._open(task, assignment) as index:
            for number, clause in enumerate(clauses):
                evidence = self._study(index, clause, earlier + clauses[:number])
                studied.append(evidence)
                wanted = evidence.facets(clause)
                if assignment and assignment.facet:
                    wanted = [facet for facet in wanted if facet is assignment.facet]
                found = [candidates(evidence, clause, facet) for facet in wanted]
                chosen = [findings_of(select(one)) for one in found if one]
                parts += chosen
                if not chosen:
                    gap = gap_text(as_heading(clause))
                    parts.append((ClauseFindings(as_heading(clause), gaps=(gap,)),))
        if not any(clause.passages for part in parts for clause in part):
            raise _nothing(task, studied)
        return merge(parts)

    def _study(self, index: Index, clause: str, earlier: Sequence[str]) -> Evidence:
        """Return the evidence for `clause`; the nodes of a clause ask for the same one."""
        asked = (index.key, clause, tuple(earlier))
        with self._lock:
            known = self._studied.get(asked)
            if known is not None:
                self._studied.move_to_end(asked)
                return known
        evidence = investigate(index, clause, earlier)
        with self._lock:
            self._studied[asked] = evidence
            while len(self._studied) > MAX_STUDIED:
                self._studied.popitem(last=False)
        return evidence

    @contextmanager
    def _open(self, task: AgentInput, assignment: Assignment | None) -> Iterator[Index]:
        options = Options.of(task)
        folder = (
            Path(options.corpus_cache_dir)
            if options.corpus_cache_dir
            else Path(tempfile.gettempdir(), "ramify-corpus-index")
        )
        key = assignment.index if assignment else None
        with self._indexes.open(options.corpus, folder, key) as index:
            yield index


def _research_tasks(
    clause: Assignment, evidence: Evidence, task: AgentInput, first: int = 0
) -> list[PlannedTask]:
    """Return the facets of `clause` as children of `task`, nested if the depth limit allows it.

    A clause without evidence, beside others that have some, becomes a child that says so.
    """
    facets = evidence.facets(clause.clause)
    if not facets:
        return [quote_task(clause)]
    terms = " · ".join(evidence.terms)
    if task.layer + 2 <= task.max_depth:
        return facet_tasks(clause, facets, terms)
    tasks: list[PlannedTask] = []
    for facet in facets:
        made = clause.model_copy(update={"role": Role.FACET, "facet": facet})
        tasks += step_tasks(made, terms, first + len(tasks))
    return tasks


def _refuse_instructions(task: AgentInput) -> None:
    """Say that instructions cannot be followed: these agents quote, they understand no wishes."""
    if task.instructions:
        text = "the corpus agents follow instructions about plans only; approve or reject this"
        raise AgentError(ErrorClass.EXECUTION, text)


def _nothing(task: AgentInput, studied: Sequence[Evidence]) -> AgentError:
    terms = dict.fromkeys(term for evidence in studied for term in evidence.terms)
    searched = ", ".join(terms) if terms else "the goal names no topic"
    log.info("no evidence in the corpus", extra={"node_id": task.node_id})
    return no_evidence(f"no evidence in the corpus; terms searched: {searched}")


def _settled(task: AgentInput, kind: type[M]) -> list[M]:
    """Return the messages of the settled dependencies; none only when there are no dependencies.

    Under the dependency policy `run` a failed dependency is among them. With nothing but failed
    ones there is nothing to work on.
    """
    done = [read_message(kind, node) for node in task.dependencies if node.state == "DONE"]
    if task.dependencies and not done:
        raise no_evidence("no evidence: none of the steps before this one found anything")
    return done


def _child_findings(child: RelatedNode) -> list[Findings]:
    """Return the findings in the output of `child`; none for the steps before WRITE."""
    if child.output is None or child.output.content_type != MARKDOWN:
        return []
    try:
        return [parse(child.output.text)]
    except ValueError as error:
        raise invalid_output(f"output of node {child.node_id}: {error}") from None


def _gap_of(child: RelatedNode) -> str | None:
    """Return the sentence that names a child without a result; None when another one names it."""
    error = child.error.lower().replace("_", " ")
    if "dependency failed" in error:
        return None  # the dependency itself is among the children or below one
    goal = child.goal.rstrip(".")
    return gap_text(goal) if "no evidence" in error else failure_text(goal)


def _selection_output(selection: Selection) -> Output:
    return Output(
        content_type=JSON, text=selection.model_dump_json(indent=1), summary=selection.basis[:2_000]
    )


def _findings_output(task: AgentInput, findings: Findings) -> Output:
    if not any(clause.passages for clause in findings):
        raise no_evidence(f"no evidence found for “{task.goal[:400]}”")
    text = render_findings(findings) if task.layer else render_report(task.goal, findings)
    return Output(content_type=MARKDOWN, text=text, summary=summarise(findings))
