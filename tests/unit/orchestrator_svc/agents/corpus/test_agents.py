"""Whole runs of the corpus agents: the tree, the quotes, the bytes, the failures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator_svc.agents.base import (
    AgentError,
    AgentInput,
    Aggregator,
    Atomizer,
    ErrorClass,
    Executor,
    NodeType,
    Output,
    Planner,
    RelatedNode,
    TaskType,
)
from orchestrator_svc.agents.corpus import (
    CorpusAgents,
    CorpusUnavailableError,
    InvalidOptionError,
    corpus_root,
)
from tests.unit.orchestrator_svc.agents.corpus.driver import Driver

Drive = Callable[..., Driver]

DEMO = "How does asyncio cancel tasks, and what should code do to clean up?"
LIBRARY_QUESTIONS = [
    DEMO,
    "How do I read a zip file and what errors can occur?",
    "What does functools.lru_cache do, how is it cleared?",
    "How does json encode objects?",
    "What is a semaphore, and why is it bounded?",
]
APIARY_QUESTIONS = [
    "How does a colony survive the winter, and what should I do against moisture?",
    "When is honey ripe, how is it extracted, and what can go wrong when it is stored?",
    "What is a swarm and how can I prevent it?",
    "How do I use a smoker?",
    "What does the hive log hold?",
]

_QUOTE = re.compile(r"^> (.+)\n> — `(.+):(\d+)(?:-(\d+))?`$", re.MULTILINE)
_SUMMARY = re.compile(r"^- (.+) \(`([^`]+):(\d+)(?:-(\d+))?`\)$", re.MULTILINE)


def assert_quotes_are_at_their_citations(markdown: str, corpus: Path) -> int:
    """Open every cited file and look for the quote; return how many quotes there are.

    Independent of the package: strips indentation and comment markers, joins lines with blanks.
    """
    found = _QUOTE.findall(markdown) + _SUMMARY.findall(markdown)
    for text, path, first, last in found:
        lines = (corpus / path).read_text("utf-8").split("\n")[int(first) - 1 : int(last or first)]
        cited = " ".join(re.sub(r"^\s*(?:#+[:!]?)?", "", line) for line in lines)
        assert text in " ".join(cited.split()), (path, first, text)
    assert markdown.count("\n> — `") == len(_QUOTE.findall(markdown))
    return len(found)


@pytest.mark.parametrize("question", LIBRARY_QUESTIONS)
async def test_every_quote_is_at_its_citation_in_the_library(
    question: str, library: Path, drive: Drive
) -> None:
    root = await drive(library).run(question)
    assert root.output is not None
    for node in root.walk():
        if node.output and node.output.content_type == "text/markdown":
            assert assert_quotes_are_at_their_citations(node.output.text, library) > 0


@pytest.mark.parametrize("question", APIARY_QUESTIONS)
async def test_every_quote_is_at_its_citation_in_markdown(
    question: str, apiary: Path, drive: Drive
) -> None:
    root = await drive(apiary).run(question)
    assert root.output is not None, root.error
    assert assert_quotes_are_at_their_citations(root.output.text, apiary) > 0


async def test_the_demo_question_on_the_standard_library(drive: Drive) -> None:
    root = await drive("stdlib").run(DEMO)
    assert root.output is not None
    assert root.layers >= 3
    assert len(root.walk()) >= 15
    assert all(node.output for node in root.walk())
    assert assert_quotes_are_at_their_citations(root.output.text, corpus_root("stdlib")) > 10
    assert "Request that this task cancel itself." in root.output.text
    assert "a chance to clean up" in root.output.text


@pytest.mark.parametrize("max_depth", [0, 1, 2, 3, 5])
async def test_two_runs_give_the_same_bytes_at_any_depth(
    library: Path, drive: Drive, max_depth: int
) -> None:
    one = await drive(library, max_depth).run(DEMO)
    again = await drive(library, max_depth).run(DEMO)
    fresh = await drive(library, max_depth, fresh=True).run(DEMO)  # nothing kept between calls
    assert one.output == again.output == fresh.output
    assert one.layers <= max_depth + 1
    assert all(not node.planned for node in one.walk() if node.input.layer >= max_depth)


async def test_the_report_is_the_same_at_every_depth_that_may_be_planned(
    library: Path, drive: Drive
) -> None:
    outputs = [(await drive(library, depth).run(DEMO)).output for depth in (0, 1, 2, 3, 5)]
    assert all(output == outputs[0] for output in outputs)


async def test_the_report_names_nothing_of_the_machine(
    library: Path, tmp_path: Path, drive: Drive
) -> None:
    root = await drive(library).run(DEMO)
    for node in root.walk():
        assert node.output is not None
        assert str(library) not in node.output.text
        assert str(library) not in node.output.summary
        assert str(library) not in json.dumps(node.input.details)


async def test_no_quote_is_repeated(library: Path, apiary: Path, drive: Drive) -> None:
    for corpus, questions in ((library, LIBRARY_QUESTIONS), (apiary, APIARY_QUESTIONS)):
        for question in questions:
            root = await drive(corpus).run(question)
            assert root.output is not None
            quotes = [quote[0] for quote in _QUOTE.findall(root.output.text)]
            assert len(quotes) == len(set(quotes))


async def test_answers_speak_of_what_was_asked(apiary: Path, drive: Drive) -> None:
    root = await drive(apiary).run(APIARY_QUESTIONS[0])
    assert root.output is not None
    assert "fifteen kilograms of honey" in root.output.text
    assert "A small upper entrance lets the moisture escape." in root.output.text
    assert "not prose" not in root.output.text
    root = await drive(apiary).run("What is a swarm and how can I prevent it?")
    assert root.output is not None
    assert "A swarm is the way in which a colony reproduces." in root.output.text


async def test_a_pronoun_stands_for_the_topic_of_the_question(apiary: Path, drive: Drive) -> None:
    root = await drive(apiary).run(APIARY_QUESTIONS[1])
    assert root.output is not None
    assert "An extractor is a drum that spins the frames" in root.output.text
    assert "No evidence" not in root.output.text
    root = await drive(apiary).run(APIARY_QUESTIONS[2])
    assert root.output is not None
    assert "Give the queen more room" in root.output.text


async def test_a_second_clause_may_change_the_subject(apiary: Path, drive: Drive) -> None:
    root = await drive(apiary).run("What is a swarm, and how do I light the smoker?")
    assert root.output is not None
    assert "Light the smoker with paper" in root.output.text


async def test_clauses_facets_and_steps_make_the_tree(library: Path, drive: Drive) -> None:
    root = await drive(library).run(DEMO)
    assert [child.input.goal for child in root.children] == [
        "How does asyncio cancel tasks?",
        "What should code do to clean up?",
    ]
    for facet in root.children[0].children:
        steps = [step.input.task_type for step in facet.children]
        assert steps == [TaskType.SEARCH, TaskType.THINK, TaskType.WRITE]
        search, think, write = facet.children
        assert search.output is not None
        assert think.output is not None
        assert write.output is not None
        assert search.output.content_type == think.output.content_type == "application/json"
        assert "Terms matched" in json.loads(think.output.text)["basis"]


@pytest.mark.parametrize("max_depth", [0, 1, 5])
async def test_a_question_without_evidence_fails_and_names_the_terms(
    library: Path, drive: Drive, max_depth: int
) -> None:
    root = await drive(library, max_depth).run("How is sourdough bread baked by yeast?")
    assert root.output is None
    assert root.error is not None
    assert root.error.error_class is ErrorClass.NO_EVIDENCE
    assert "sourdough" in root.error.message
    root = await drive(library, max_depth).run("What?! And how?")
    assert root.error is not None
    assert root.error.error_class is ErrorClass.NO_EVIDENCE


@pytest.mark.parametrize("max_depth", [0, 1, 5])
async def test_a_clause_without_evidence_is_named_in_the_report(
    library: Path, drive: Drive, max_depth: int
) -> None:
    question = "How does asyncio cancel tasks, and how is sourdough bread fermented?"
    root = await drive(library, max_depth).run(question)
    assert root.output is not None
    if max_depth > 1:
        failed = [node for node in root.walk() if node.error]
        assert [node.error.error_class for node in failed if node.error] == ["NO_EVIDENCE"]
        assert "No evidence found for “How is sourdough bread fermented?”." in root.output.text
    else:
        assert "sourdough bread fermented?”." in root.output.text
    assert "## 1. How does asyncio cancel tasks?" in root.output.text


def make_input(apiary: Path, cache_dir: Path, **changes: object) -> AgentInput:
    base = AgentInput(
        project_id="p",
        node_id="n",
        attempt=1,
        goal="How do I use a smoker?",
        task_type=TaskType.WRITE,
        layer=1,
        max_depth=5,
        overall_objective="How do I use a smoker?",
        options={"corpus": str(apiary), "corpus_cache_dir": str(cache_dir)},
    )
    return base.model_copy(update=changes)


def done(output: Output, task_type: TaskType = TaskType.SEARCH) -> RelatedNode:
    return RelatedNode(node_id="d", goal="dep", task_type=task_type, state="DONE", output=output)


def test_one_class_fills_all_roles() -> None:
    agents = CorpusAgents()
    for role in (Atomizer, Planner, Executor, Aggregator):
        assert isinstance(agents, role)


async def test_steps_work_without_details_from_a_corpus_planner(
    apiary: Path, cache_dir: Path
) -> None:
    agents = CorpusAgents()
    search = await agents.execute(make_input(apiary, cache_dir, task_type=TaskType.SEARCH))
    think = await agents.execute(
        make_input(apiary, cache_dir, task_type=TaskType.THINK, dependencies=(done(search),))
    )
    write = await agents.execute(make_input(apiary, cache_dir, dependencies=(done(think),)))
    assert "## How do I use a smoker?\n" in write.text
    assert "The smoker calms the bees." in write.text
    verdict = await agents.atomize(make_input(apiary, cache_dir, task_type=TaskType.SEARCH))
    assert verdict.node_type is NodeType.EXECUTE


@pytest.mark.parametrize(
    "bad",
    [
        Output(content_type="application/json", text="{"),
        Output(content_type="application/json", text='{"clause": "x"}'),
        Output(content_type="text/plain", text="hello"),
    ],
)
async def test_invalid_output_of_a_dependency_is_refused(
    apiary: Path, cache_dir: Path, bad: Output
) -> None:
    for task_type in (TaskType.THINK, TaskType.WRITE):
        task = make_input(apiary, cache_dir, task_type=task_type, dependencies=(done(bad),))
        with pytest.raises(AgentError) as caught:
            await CorpusAgents().execute(task)
        assert caught.value.error_class is ErrorClass.INVALID_OUTPUT


async def test_invalid_output_of_a_child_and_invalid_details_are_refused(
    apiary: Path, cache_dir: Path
) -> None:
    child = done(Output(content_type="text/markdown", text="hello"), TaskType.WRITE)
    with pytest.raises(AgentError) as caught:
        await CorpusAgents().aggregate(make_input(apiary, cache_dir, children=(child,)))
    assert caught.value.error_class is ErrorClass.INVALID_OUTPUT
    with pytest.raises(AgentError) as caught:
        await CorpusAgents().plan(make_input(apiary, cache_dir, details={"role": "cook"}))
    assert caught.value.error_class is ErrorClass.INVALID_OUTPUT


async def test_failed_dependencies_leave_nothing_to_work_on(apiary: Path, cache_dir: Path) -> None:
    failed = RelatedNode(
        node_id="d", goal="dep", task_type=TaskType.SEARCH, state="FAILED", error="NO_EVIDENCE"
    )
    task = make_input(apiary, cache_dir, task_type=TaskType.THINK, dependencies=(failed,))
    with pytest.raises(AgentError) as caught:
        await CorpusAgents().execute(task)
    assert caught.value.error_class is ErrorClass.NO_EVIDENCE


async def test_a_failure_other_than_missing_evidence_is_named_as_such(
    apiary: Path, cache_dir: Path
) -> None:
    agents = CorpusAgents()
    text = await agents.execute(make_input(apiary, cache_dir))
    states = {"one": "NO_EVIDENCE: x", "two": "TIMEOUT", "three": "DEPENDENCY_FAILED{a}"}
    failed = tuple(
        RelatedNode(node_id=g, goal=g, task_type=TaskType.WRITE, state="FAILED", error=error)
        for g, error in states.items()
    )
    children = (done(text, TaskType.WRITE), *failed)
    output = await agents.aggregate(make_input(apiary, cache_dir, layer=0, children=children))
    assert "No evidence found for “one”." in output.text
    assert "Not answered, because its research failed: “two”." in output.text
    assert "three" not in output.text
    with pytest.raises(AgentError) as caught:
        await agents.aggregate(make_input(apiary, cache_dir, children=failed))
    assert caught.value.error_class is ErrorClass.NO_EVIDENCE


async def test_unusable_options_and_work_are_typed_errors(apiary: Path, cache_dir: Path) -> None:
    agents = CorpusAgents()
    with pytest.raises(CorpusUnavailableError, match="does not exist"):
        await agents.plan(make_input(apiary, cache_dir, options={"corpus": str(apiary / "no")}))
    for options in ({}, {"corpus": 7}, {"corpus": "stdlib", "corpus_cache_dir": 7}):
        with pytest.raises(InvalidOptionError):
            await agents.plan(make_input(apiary, cache_dir, options=options))
    with pytest.raises(AgentError, match="CODE_INTERPRET"):
        await agents.execute(make_input(apiary, cache_dir, task_type=TaskType.CODE_INTERPRET))
