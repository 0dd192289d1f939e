"""The terms of a clause and what it inherits."""

from orchestrator_svc.agents.corpus import words
from orchestrator_svc.agents.corpus.terms import (
    COMPANION,
    ELLIPTIC,
    RELATED,
    WEAK,
    clause_terms,
    importance,
    labels,
    match_query,
    own_terms,
    settle_forms,
)
from orchestrator_svc.agents.corpus.words import MAX_ORDINARY_LETTERS, stems


def test_question_words_are_no_terms_and_general_words_weigh_little() -> None:
    terms = own_terms("How does the GIL affect threading?")
    assert labels(terms) == ["GIL", "affect", "threading"]
    assert [term.weight for term in terms] == [1.0, WEAK, 1.0]


def test_an_identifier_is_a_phrase() -> None:
    terms = own_terms("What does functools.lru_cache do?")
    assert labels(terms) == ["functools", "lru_cache"]
    assert terms[1].forms[0] == tuple(stems("lru cache"))


def test_names_are_known_by_their_letters() -> None:
    proper = [term.label for term in own_terms("How does the GIL affect ZipFile and read_file?")]
    assert proper == ["GIL", "affect", "ZipFile", "read_file"]
    assert [term.proper for term in own_terms("GIL Threads ZipFile file")] == [1, 0, 1, 0]


def test_words_apart_and_written_together_match_each_other() -> None:
    apart = own_terms("read a zip file")
    assert all(term.match(stems("zipfile")) == 1.0 for term in apart if term.label != "read")
    assert own_terms("zipfile")[0].match(stems("a ZIP file")) == 1.0
    assert own_terms("to clean up")[0].match(stems("after cleanup")) == 1.0


def test_a_word_beyond_the_limit_is_neither_cut_nor_kept() -> None:
    caches = (words._cached_stem, words._cached_stems_of)
    before = [cache.cache_info().currsize for cache in caches]
    (long,) = own_terms("q" * 9_990)
    assert long.forms == (("q" * 9_989,),), "its stem alone"
    assert [cache.cache_info().currsize for cache in caches] == before
    (longest,) = own_terms("qz" * (MAX_ORDINARY_LETTERS // 2))
    assert len(longest.forms) == 1 + MAX_ORDINARY_LETTERS - 5, "cut wherever three letters are left"
    (beyond,) = own_terms("qz" * (MAX_ORDINARY_LETTERS // 2) + "q")
    assert len(beyond.forms) == 1


def test_a_related_word_counts_for_less() -> None:
    (term,) = own_terms("errors")
    assert term.match(stems("an error")) == 1.0
    assert term.match(stems("raises an exception")) == RELATED
    assert term.match(stems("all is well")) == 0.0


def test_a_clause_that_cannot_stand_alone_inherits_the_topic() -> None:
    first = "How does asyncio cancel tasks"
    terms = clause_terms("what should code do to clean up", [first])
    assert labels(terms) == ["code", "clean", "asyncio", "cancel", "tasks"]
    assert [term.weight for term in terms if not term.own] == [ELLIPTIC] * 3


def test_a_clause_of_its_own_inherits_only_a_preference() -> None:
    terms = clause_terms("how does zlib compress data", ["How does asyncio cancel tasks"])
    assert {term.weight for term in terms if not term.own} == {COMPANION}


def test_a_clause_without_topic_words_takes_the_topic_as_its_own() -> None:
    terms = clause_terms("how does it work", ["What is a semaphore"])
    assert labels([term for term in terms if term.strong]) == ["semaphore"]


def test_forms_that_the_corpus_does_not_use_are_dropped() -> None:
    (term,) = settle_forms(own_terms("zipfile"), lambda form: form == ("zip", "fil"))
    assert set(term.forms) == {("zipfil",), ("zip", "fil")}


def test_queries_quote_every_form() -> None:
    terms = own_terms('"event loop" NOT')
    assert match_query(terms, every=True) == '("event loop") AND ("not")'


def test_rare_terms_say_more_up_to_a_bound() -> None:
    (term,) = own_terms("semaphore")
    assert importance(term, 1, 1_000) > importance(term, 100, 1_000)
    assert importance(term, 0, 10**9) == importance(term, 1, 10**9)
