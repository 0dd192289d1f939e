"""Taking sentences out of sections."""

from textwrap import dedent

import pytest

from orchestrator_svc.agents.corpus.excerpt import span_around
from orchestrator_svc.agents.corpus.section import Kind, Section
from orchestrator_svc.agents.corpus.sentence import Sentence, is_prose, sentences


def section(text: str, kind: Kind = Kind.FUNCTION, start: int = 10) -> Section:
    return Section("a.py", "a.f", kind, start, tuple(dedent(text).split("\n")))


def texts(text: str, kind: Kind = Kind.FUNCTION) -> list[str]:
    return [sentence.text for sentence in sentences(section(text, kind))]


def test_sentences_know_the_lines_they_stand_on() -> None:
    found = sentences(section("Open the file now.  It is read\nin one go. Then it is closed.\n"))
    assert [(s.text, s.start, s.end, s.position) for s in found] == [
        ("Open the file now.", 10, 10, 0),
        ("It is read in one go.", 10, 11, 1),
        ("Then it is closed.", 11, 11, 2),
    ]


def test_abbreviations_do_not_end_a_sentence() -> None:
    assert texts("Pass a mapping, e.g. A dict or the like, to it.") == [
        "Pass a mapping, e.g. A dict or the like, to it."
    ]


def test_the_first_line_of_a_docstring_needs_no_full_stop() -> None:
    assert texts("Clear the whole cache") == ["Clear the whole cache"]
    assert texts("Clear the whole cache", Kind.COMMENT) == []


def test_code_tables_and_literal_blocks_are_no_prose() -> None:
    text = """\
        Use it like this::

            With this text in a literal block.

        >>> print("A doctest is not prose.")
        A doctest is not prose.

        | This table is not prose. | At all. |

        This line is prose again.
        """
    assert texts(text) == ["This line is prose again."]


def test_items_of_a_list_are_read_one_by_one() -> None:
    text = "- The first item of the list.\n- The second item of\n  the list.\n"
    assert texts(text) == ["The first item of the list.", "The second item of the list."]


def test_a_hanging_indent_does_not_cut_a_sentence() -> None:
    text = "size: if it is set the queue blocks when\n      it is full, which takes time.\n"
    assert all(not found.startswith("it is full") for found in texts(text))


@pytest.mark.parametrize(
    "text",
    [
        "if x == 3 then call the function f.",
        "TODO Write this sentence properly.",
        "The list (without its end is here.",
        "needed, otherwise it will raise an error.",
        "Is returned by the open method.",
        "a = b + c and so on with d.",
        "Short one.",
        "x" * 500,
    ],
)
def test_fragments_and_code_are_refused(text: str) -> None:
    assert not is_prose(text)


def prose(*items: str) -> list[Sentence]:
    return [Sentence(text, n + 1, n + 1, 0, n) for n, text in enumerate(items)]


def test_a_sentence_that_leans_back_takes_the_one_before_along() -> None:
    found = prose("Open the file.", "Otherwise it stays closed.", "Nothing else happens.")
    span = span_around(found, 1, Kind.FUNCTION)
    assert span is not None
    assert (span.first, span.last) == (0, 1)
    assert span_around(found, 0, Kind.FUNCTION) == span


def test_a_sentence_that_leans_on_nothing_is_not_quoted() -> None:
    assert span_around(prose("However it stays closed."), 0, Kind.HEADING) is None
    assert span_around(prose("This opens the file."), 0, Kind.FUNCTION) is not None
    assert span_around(prose("This opens the file."), 0, Kind.COMMENT) is None
