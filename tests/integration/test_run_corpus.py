"""Real research runs through both services: the report is true, and the same every time."""

from __future__ import annotations

import re
import shutil
import sysconfig
from pathlib import Path

import pytest

from orchestrator_svc.agents.corpus import cited_text, corpus_root
from ramify.v1.node_pb2 import ErrorClass
from tests.support.run_history import node_state
from tests.support.runs import QUESTION, Runs, results

_QUOTE = re.compile(r"^> (?P<text>[^—].*)\n> — `(?P<place>[^`]+)`$", re.M)
_LEAD = re.compile(r"^- (?P<text>.+) \(`(?P<place>[^`]+:\d+(?:-\d+)?)`\)$", re.M)
_PLACE = re.compile(r"^(?P<path>.+):(?P<first>\d+)(?:-(?P<last>\d+))?$")


def check_quotes(report: str, corpus: str) -> int:
    """Assert that every quote is at its citation; return how many there are."""
    found = [*_QUOTE.finditer(report), *_LEAD.finditer(report)]
    assert report.count("\n> — `") == len(_QUOTE.findall(report)), "every citation has its quote"
    for quote in found:
        place = _PLACE.match(quote["place"])
        assert place is not None, quote["place"]
        path = corpus_root(corpus) / place["path"]
        first, last = int(place["first"]), int(place["last"] or place["first"])
        lines = path.read_text("utf-8", "replace").replace("\r\n", "\n").split("\n")
        assert 1 <= first <= last <= len(lines)
        cited = cited_text(lines[first - 1 : last])
        assert quote["text"] in cited, f"{quote['text']!r} is not at {quote['place']}: {cited!r}"
    return len(found)


@pytest.fixture(scope="module")
def asyncio_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with the standard library's asyncio package and a text in Markdown."""
    folder = tmp_path_factory.mktemp("corpus")
    source = Path(sysconfig.get_paths()["stdlib"]) / "asyncio"
    shutil.copytree(source, folder / "asyncio", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notes.md").write_text(
        "# Event loops\n\nA queue holds items until a worker takes them.\n\n"
        "## Closing a queue\n\nClose a queue only after every worker has\nfinished its last item.\n"
    )
    return str(folder)


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with one small text about something else."""
    folder = tmp_path_factory.mktemp("garden")
    (folder / "roses.md").write_text("# Roses\n\nPrune roses in early spring, above a bud.\n")
    return str(folder)


async def test_the_demo_question_on_the_standard_library(runs: Runs) -> None:
    project = await runs.start(QUESTION, options={"corpus": "stdlib"})
    history = await runs.finish(project.project_id)
    assert history.state == "COMPLETED"
    nodes = history.nodes.values()
    assert len(nodes) >= 15
    assert max(node.layer for node in nodes) + 1 >= 3
    assert {node_state(node.state) for node in nodes} == {"DONE"}
    assert {node.attempt for node in nodes} == {1}
    stored = await runs.wire.project(project.project_id)
    root = history.nodes[stored.root_node_id]
    assert root.result.content_type == "text/markdown"
    report = await runs.text(project.project_id, root.result)
    assert report.startswith(f"# {QUESTION}\n")
    assert root.output_summary
    assert check_quotes(report, "stdlib") >= 10

    again = await runs.start(QUESTION, options={"corpus": "stdlib"})
    assert results(await runs.finish(again.project_id)) == results(history)
    assert await runs.report(again.project_id) == report


@pytest.mark.parametrize(
    "question",
    [
        QUESTION,
        "What does an event loop do with a queue, and when should a queue be closed?",
        "How do transports and protocols work together?",
    ],
)
@pytest.mark.parametrize("slots", [1, 10])
async def test_every_quote_is_at_its_citation(
    runs: Runs, asyncio_folder: str, question: str, slots: int
) -> None:
    project = await runs.start(
        question,
        options={"corpus": asyncio_folder},
        settings={"max_concurrent_nodes": slots},
    )
    history = await runs.finish(project.project_id)
    assert history.state in ("COMPLETED", "PARTIAL")
    assert check_quotes(await runs.report(project.project_id), asyncio_folder) >= 3


async def test_the_order_of_the_work_does_not_show_in_the_report(
    runs: Runs, asyncio_folder: str
) -> None:
    reports = set()
    for slots in (1, 3, 50):
        project = await runs.start(
            options={"corpus": asyncio_folder}, settings={"max_concurrent_nodes": slots}
        )
        history = await runs.finish(project.project_id)
        assert history.most_in_flight <= slots
        reports.add(await runs.report(project.project_id))
    assert len(reports) == 1


async def test_a_question_without_evidence_fails_and_says_so(runs: Runs, garden: str) -> None:
    question = "How do submarines navigate beneath polar ice?"
    project = await runs.start(question, options={"corpus": garden})
    history = await runs.finish(project.project_id)
    assert history.state == "FAILED"
    assert not history.failures, "missing evidence is not retried"
    stored = await runs.wire.project(project.project_id)
    assert stored.error.error_class == ErrorClass.ERROR_CLASS_NO_EVIDENCE
    assert "evidence" in stored.error.message.lower()
    root = history.nodes[stored.root_node_id]
    assert node_state(root.state) == "FAILED"
    assert not root.HasField("result")


async def test_a_question_that_is_half_answered_is_partial_and_names_the_gap(
    runs: Runs, garden: str
) -> None:
    question = "When should roses be pruned, and how do submarines navigate beneath polar ice?"
    project = await runs.start(question, options={"corpus": garden})
    history = await runs.finish(project.project_id)
    assert history.state == "PARTIAL"
    assert not history.failures
    report = await runs.report(project.project_id)
    assert "Prune roses in early spring" in report
    assert "No evidence found" in report
    assert "submarines" in report
    assert check_quotes(report, garden) >= 1
