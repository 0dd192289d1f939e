"""Splitting a question at its clauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.corpus.clause import (
    MAX_CLAUSES,
    as_heading,
    points_back,
    split_clauses,
)


@pytest.mark.parametrize(
    "question, clauses",
    [
        (
            "How does asyncio cancel tasks, and what should code do to clean up?",
            ["How does asyncio cancel tasks", "what should code do to clean up"],
        ),
        (
            "How do I read a zip file and what errors can occur?",
            ["How do I read a zip file", "what errors can occur"],
        ),
        (
            "What does functools.lru_cache do, how is it cleared?",
            ["What does functools.lru_cache do", "how is it cleared"],
        ),
        ("How does the GIL affect threading?", ["How does the GIL affect threading"]),
        ("What are threads and processes?", ["What are threads and processes"]),
        ("How and when are tasks cancelled?", ["How and when are tasks cancelled"]),
        (
            "What is honey? When is it ripe? Explain how to store it.",
            ["What is honey", "When is it ripe", "Explain how to store it"],
        ),
        (
            "Explain why a queue, which is bounded, blocks",
            ["Explain why a queue, which is bounded, blocks"],
        ),
        ("lru_cache", ["lru_cache"]),
        ("   ", []),
        ("?!", []),
    ],
)
def test_a_question_is_split_at_its_clauses(question: str, clauses: list[str]) -> None:
    assert split_clauses(question) == clauses


def test_a_long_question_keeps_its_rest_in_the_last_clause() -> None:
    question = " ".join(f"What is topic{number}?" for number in range(MAX_CLAUSES + 3))
    clauses = split_clauses(question)
    assert len(clauses) == MAX_CLAUSES
    assert f"topic{MAX_CLAUSES + 2}" in clauses[-1]


@given(st.text(max_size=300))
def test_no_word_of_a_question_is_in_two_clauses_or_changed(question: str) -> None:
    rest = " ".join(question.split())
    for clause in split_clauses(question):
        at = rest.find(clause.split(" ")[0])
        assert at >= 0
        assert clause in rest
        rest = rest[rest.find(clause) + len(clause) :]


def test_pronouns_point_back() -> None:
    assert points_back("how is it cleared")
    assert not points_back("how is a cache cleared")


def test_headings_ask_only_when_the_clause_asks() -> None:
    assert as_heading("how is it cleared") == "How is it cleared?"
    assert as_heading("explain the queue") == "Explain the queue"
