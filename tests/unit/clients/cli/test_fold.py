"""What is folded for a terminal fits it, loses no word, and keeps the guides of its tree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ramify.cli.format import fold


@given(
    words=st.lists(st.text("ab-.", min_size=1, max_size=30), min_size=1, max_size=20),
    margin=st.sampled_from(["", "  ", "├─ 1. ", "│   └── ", "└─ 12. "]),
    width=st.integers(30, 90),
)
def test_a_folded_line_fits_and_loses_nothing(words: list[str], margin: str, width: int) -> None:
    parts = list(fold(margin + " ".join(words), width))
    assert all(len(part) <= width for part in parts)
    found = [part[len(margin) :] for part in parts]
    assert "".join(found).replace(" ", "") == "".join(words)


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "├─ 1. Find the standard library",
            ["├─ 1. Find the standard", "│     library"],
        ),
        ("└─ 8. Write an answer to all of it", ["└─ 8. Write an answer to all", "      of it"]),
        ("│   └── giving-up  examples.done:it", ["│   └── giving-up", "│       examples.done:it"]),
        ("It could not be changed at all", ["It could not be changed at", "all"]),
        ("    → ramify review list run-12860171b7ae", None),
        ("short", None),
    ],
)
def test_what_continues_a_line_stands_below_its_text(line: str, expected: list[str] | None) -> None:
    assert list(fold(line, 28)) == (expected or [line])


def test_what_continues_a_line_can_hang() -> None:
    assert list(fold("  root  agent, result, usage, end_time", 28, hang=2)) == [
        "  root  agent, result,",
        "    usage, end_time",
    ]
