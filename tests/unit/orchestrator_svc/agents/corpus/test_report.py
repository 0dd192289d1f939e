"""Findings, their merge, and the Markdown in which they travel."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_svc.agents.corpus.findings import ClauseFindings, Passage, alike, merge
from orchestrator_svc.agents.corpus.messages import Quote
from orchestrator_svc.agents.corpus.report import (
    cited_text,
    gap_text,
    parse,
    render_findings,
    render_report,
)
from orchestrator_svc.agents.corpus.section import Kind


def quote(text: str, path: str = "a.py", line: int = 1, name: str = "a.f") -> Quote:
    return Quote(
        text=text, path=path, start_line=line, end_line=line, name=name, kind=Kind.FUNCTION
    )


_WORDS = st.lists(st.sampled_from("open close read queue task `x` *y* > # — [z] In".split()))
_TEXT = _WORDS.map(" ".join).filter(bool)
_QUOTES = st.builds(
    Quote,
    text=_TEXT,
    path=st.sampled_from(["a.py", "b c/d.md", "x:1/y.rst"]),
    start_line=st.integers(1, 50),
    end_line=st.integers(51, 99),
    name=st.sampled_from(["a.f", "Bees > Queens", "x (y):"]),
    kind=st.sampled_from(Kind),
)
_FINDINGS = st.lists(
    st.builds(
        ClauseFindings,
        heading=st.sampled_from(["How does it run?", "What is it?"]),
        passages=st.lists(
            st.builds(
                Passage,
                heading=st.sampled_from(["What it is", "How it works"]),
                quotes=st.lists(_QUOTES, min_size=1, max_size=3).map(tuple),
            ),
            min_size=1,
            max_size=2,
        ).map(tuple),
        gaps=st.lists(_TEXT.map(gap_text), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@settings(max_examples=40)
@given(_FINDINGS)
def test_rendered_findings_are_read_back_unchanged(findings: tuple[ClauseFindings, ...]) -> None:
    merged = merge([findings])
    assert parse(render_findings(merged)) == merged


@settings(max_examples=25)
@given(st.lists(_FINDINGS, max_size=3))
def test_merging_twice_changes_nothing_more(parts: list[tuple[ClauseFindings, ...]]) -> None:
    once = merge(parts)
    assert merge([once]) == once


@pytest.mark.parametrize("text", ["", "hello", "## Clause\n\n### Facet\n\n> text without citation"])
def test_other_text_is_not_taken_for_findings(text: str) -> None:
    with pytest.raises(ValueError, match=r"findings"):
        parse(text)


def test_quotes_that_say_the_same_are_alike() -> None:
    one = quote("Clear the cache and the statistics.")
    assert alike(one, quote("Clear the cache and statistics", path="b.py", line=9))
    assert not alike(one, quote("Open the cache file for reading.", path="b.py"))
    assert alike(quote("One is here. Two is there."), quote("Two is there. Three left the house."))
    assert not alike(quote("The queen is in the box."), quote("The worker is on the comb."))


def test_a_quote_stays_with_the_clause_whose_words_it_says() -> None:
    shared = quote("The coroutine has a chance to clean up.")
    first = ClauseFindings("How are tasks cancelled?", (Passage("How it works", (shared,)),))
    second = ClauseFindings("What should code clean up?", (Passage("How to use it", (shared,)),))
    assert merge([(first,), (second,)]) == (second,)


def test_a_report_has_title_summary_clauses_gaps_and_sources() -> None:
    found = ClauseFindings("What is a queue?", (Passage("What it is", (quote("A queue."),)),))
    gap = ClauseFindings("Why?", gaps=(gap_text("Why is it slow?"),))
    report = render_report("what is a queue, and why is it slow?", (found, gap))
    heads = [line for line in report.split("\n") if line.startswith("#")]
    assert heads == [
        "# What is a queue, and why is it slow?",
        "## Summary",
        "## 1. What is a queue?",
        "### What it is",
        "## What the corpus does not answer",
        "## Sources",
    ]
    assert report.count("No evidence found for “Why is it slow?”.") == 2
    assert "- `a.py`: `a.f`" in report


def test_cited_text_drops_indentation_and_comment_markers_only() -> None:
    lines = ["    # The queue is", "    #: full of #1 items.", '    """Doc."""']
    assert cited_text(lines) == 'The queue is full of #1 items. """Doc."""'
