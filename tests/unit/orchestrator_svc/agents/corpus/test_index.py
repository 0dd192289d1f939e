"""The index file: complete or absent, shared, rebuilt when the documents change."""

import logging
import multiprocessing
import os
import shutil
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import apsw
import pytest

from orchestrator_svc.agents.base import ErrorClass
from orchestrator_svc.agents.corpus import CorpusUnavailableError, validate_corpus
from orchestrator_svc.agents.corpus import index as index_module
from orchestrator_svc.agents.corpus.index import MAX_CACHED, Index, IndexCache, build_index
from orchestrator_svc.agents.corpus.source import Document, read_documents


def key_of(corpus: Path, folder: Path) -> str:
    with IndexCache().open(str(corpus), folder) as index:
        return index.key


def test_an_index_is_built_once_and_then_reused(
    apiary: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = key_of(apiary, tmp_path)
    assert key_of(apiary, tmp_path) == first
    built = [record for record in caplog.records if record.message == "corpus index built"]
    assert len(built) == 1
    assert vars(built[0])["seconds"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{first}.sqlite"]


def test_changed_documents_get_another_index_and_a_run_keeps_its_own(
    apiary: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "docs"
    shutil.copytree(apiary, corpus)
    folder = tmp_path / "indexes"
    first = key_of(corpus, folder)
    (corpus / "new.md").write_text("# New\n\nThe queen lays two thousand eggs a day.\n")
    assert key_of(corpus, folder) != first
    with IndexCache().open(str(corpus), folder, first) as index:
        assert index.key == first
        assert index.search("egg", 9) == []


def test_the_index_does_not_depend_on_where_the_corpus_lies(apiary: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(apiary, copy)
    assert key_of(apiary, tmp_path / "a") == key_of(copy, tmp_path / "b")


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100])
def test_a_damaged_index_is_built_again(apiary: Path, tmp_path: Path, damage: bytes) -> None:
    key = key_of(apiary, tmp_path)
    (tmp_path / f"{key}.sqlite").write_bytes(damage)
    assert key_of(apiary, tmp_path) == key
    with IndexCache().open(str(apiary), tmp_path, key) as index:
        assert index.search("swarm", 9)


def _build_and_hang(corpus: str, folder: str, half_way: Event) -> None:
    fill = index_module._fill

    def hang(db: apsw.Connection, documents: list[Document]) -> int:
        fill(db, documents)
        half_way.set()
        threading.Event().wait()
        return 0

    index_module._fill = hang
    key_of(Path(corpus), Path(folder))


def test_a_killed_build_leaves_no_index_and_the_next_one_works(
    apiary: Path, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    half_way = context.Event()
    builder = context.Process(target=_build_and_hang, args=(str(apiary), str(tmp_path), half_way))
    builder.start()
    assert half_way.wait(30)
    builder.kill()
    builder.join()
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    key = key_of(apiary, tmp_path)
    assert (tmp_path / f"{key}.sqlite").exists()


def _build(corpus: str, folder: str) -> None:
    documents = read_documents(corpus)
    for _ in range(5):
        build_index(documents, Path(folder, "same.sqlite"))


def test_two_processes_may_build_at_once(apiary: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=_build, args=(str(apiary), str(tmp_path))) for _ in "ab"]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
        assert builder.exitcode == 0
    index = Index(tmp_path / "same.sqlite", "same")
    assert index.section_count > 10
    index.close()
    assert [path.name for path in tmp_path.iterdir()] == ["same.sqlite"]


def test_the_cache_folder_is_bounded_and_cleaned(apiary: Path, tmp_path: Path) -> None:
    old = time.time() - 100_000
    for number in range(MAX_CACHED + 2):
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(b"x")
        os.utime(path, (old + number, old + number))
    stale = tmp_path / ".dead.sqlite.1.ab.tmp"
    stale.write_bytes(b"x")
    os.utime(stale, (old, old))
    key = key_of(apiary, tmp_path)
    assert not stale.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == MAX_CACHED
    assert f"{key}.sqlite" in left
    assert "0.sqlite" not in left


def test_an_unfinished_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    apsw.Connection(str(path)).execute("CREATE TABLE section(id)")
    with pytest.raises(apsw.CorruptError):
        Index(path, "x")


def test_a_corpus_that_cannot_be_read_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "photo.png").write_bytes(b"")
    (tmp_path / "file.md").write_text("x")
    for name, problem in (
        ("missing", "does not exist"),
        ("empty", "holds no"),
        ("file.md", "not a folder"),
    ):
        with pytest.raises(CorpusUnavailableError, match=problem) as caught:
            validate_corpus(str(tmp_path / name))
        assert caught.value.error_class is ErrorClass.EXECUTION
        assert caught.value.remedy in str(caught.value)
    with pytest.raises(CorpusUnavailableError):
        validate_corpus("")


def test_the_standard_library_is_a_corpus() -> None:
    validate_corpus("stdlib")
