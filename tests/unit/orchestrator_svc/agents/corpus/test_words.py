"""Words and stems."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.corpus.words import count_run, places_of_run, stem, stems


@pytest.mark.parametrize(
    "family",
    [
        ("cancel", "cancels", "cancelled", "canceled", "cancelling", "cancellation"),
        ("use", "uses", "used", "using"),
        ("retry", "retries", "retried"),
        ("thread", "threads", "threading", "threaded"),
        ("class", "classes"),
        ("cache", "caches", "cached", "caching"),
        ("customise", "customize", "customised", "customizing"),
        ("stop", "stops", "stopped", "stopping"),
        ("call", "calls", "called", "calling"),
        ("prevent", "prevents", "prevention"),
        ("compress", "compression", "compressed"),
        ("add", "adds", "added", "adding"),
        ("colour", "color", "colours"),
    ],
)
def test_inflections_of_a_word_have_one_stem(family: tuple[str, ...]) -> None:
    assert len({stem(word) for word in family}) == 1, {word: stem(word) for word in family}


@pytest.mark.parametrize("words", [("string", "strong"), ("task", "tax"), ("this", "thing")])
def test_different_words_keep_different_stems(words: tuple[str, str]) -> None:
    assert stem(words[0]) != stem(words[1])


def test_identifiers_are_split_at_case_and_underscore() -> None:
    assert stems("CancelledError") == stems("cancelled_error") == stems("cancelled error")
    assert stems("HTTPServer") == ["http", "server"]
    assert stems("utf8 base64") == ["utf8", "base64"]


@given(st.text(max_size=200))
def test_stems_are_lower_case_words_for_any_text(text: str) -> None:
    for token in stems(text):
        assert token
        assert " " not in token


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), min_size=1))
def test_places_and_count_of_a_run_agree(tokens: list[str], run: list[str]) -> None:
    places = places_of_run(tokens, tuple(run))
    assert len(places) == count_run(tokens, tuple(run))
    assert all(tokens[at : at + len(run)] == run for at in places)
