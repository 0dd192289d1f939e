"""The full-text index of a corpus: SQLite FTS5 through apsw, built once per content.

An index file is complete or absent: it is built under a temporary name in the cache folder, synced
and renamed. Processes that build the same index at once each write their own temporary file, and
the last rename wins with equal content. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import apsw

from orchestrator_svc.agents.corpus.documents import document_sections
from orchestrator_svc.agents.corpus.section import Kind, Section
from orchestrator_svc.agents.corpus.source import (
    Document,
    content_key,
    read_documents,
    validate_corpus,
)
from orchestrator_svc.agents.corpus.words import stems

log = logging.getLogger(__name__)

FORMAT = 2  #: version of the file's layout and of everything that decides its content
MAX_CACHED = 8  #: index files kept in a cache folder; the least recently used go first
STALE_SECONDS = 3_600.0  #: a temporary file older than this belongs to a dead builder

_SCHEMA = """
CREATE TABLE section(
  id INTEGER PRIMARY KEY, path TEXT, name TEXT, kind TEXT, start INTEGER, body TEXT);
CREATE VIRTUAL TABLE fts USING fts5(name, body, content='', tokenize='ascii', detail=full);
"""
_RANKED = "SELECT rowid FROM fts WHERE fts MATCH ? ORDER BY bm25(fts, 3.0, 1.0), rowid LIMIT ?"


class Index:
    """An open index, for one thread at a time."""

    def __init__(self, path: Path, key: str) -> None:
        self.key = key  #: names the content of the corpus
        self._db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        self.section_count: int = self._db.pragma("user_version")
        if not self.section_count:
            self._db.close()
            raise apsw.CorruptError("the index is not complete")

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def search(self, query: str, limit: int) -> list[int]:
        """Return the ids of the sections that match the FTS5 `query`, best BM25 first."""
        return [row for (row,) in self._db.execute(_RANKED, (query, limit))]

    def count(self, query: str) -> int:
        """Return how many sections match the FTS5 `query`."""
        (row,) = self._db.execute("SELECT count(*) FROM fts WHERE fts MATCH ?", (query,)).fetchall()
        return row[0] if isinstance(row[0], int) else 0

    def sections(self, ids: Iterable[int]) -> Iterator[tuple[int, Section]]:
        """Yield the sections of `ids`, in that order."""
        for number in ids:
            rows = self._db.execute(
                "SELECT path, name, kind, start, body FROM section WHERE id = ?", (number,)
            )
            for path, name, kind, start, body in rows:
                yield number, Section(path, name, Kind(kind), start, tuple(body.split("\n")))


class IndexCache:
    """Opens indexes, building those that are not in the cache folder yet.

    Safe for any number of threads; within a process an index is built once, the others wait.
    """

    def __init__(self) -> None:
        self._building = threading.Lock()

    @contextlib.contextmanager
    def open(self, corpus: str, folder: Path, key: str | None = None) -> Iterator[Index]:
        """Open the index of `corpus`, preferably that of the content named by `key`.

        With a `key` whose file is still cached the corpus is not read again, so one run answers
        from one state of the documents. Raises `CorpusUnavailableError`.
        """
        index = self._cached(folder, key) if key else None
        if index is None:
            with self._building:
                index = self._build_or_reuse(corpus, folder)
            if key and index.key != key:
                log.warning("corpus changed since the run was planned", extra={"corpus": corpus})
        try:
            yield index
        finally:
            index.close()

    def _cached(self, folder: Path, key: str) -> Index | None:
        path = _index_path(folder, key)
        try:
            index = Index(path, key)
        except (apsw.CantOpenError, apsw.CorruptError, apsw.NotADBError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return index

    def _build_or_reuse(self, corpus: str, folder: Path) -> Index:
        validate_corpus(corpus)
        began = time.monotonic()
        documents = read_documents(corpus)
        key = content_key(documents, FORMAT)
        index = self._cached(folder, key)
        if index is not None:
            return index
        folder.mkdir(parents=True, exist_ok=True)
        count = build_index(documents, _index_path(folder, key))
        log.info(
            "corpus index built",
            extra={
                "corpus": corpus,
                "documents": len(documents),
                "sections": count,
                "seconds": round(time.monotonic() - began, 2),
            },
        )
        _prune(folder)
        return Index(_index_path(folder, key), key)


def build_index(documents: list[Document], path: Path) -> int:
    """Write the index of `documents` to `path` and return its number of sections."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        db = apsw.Connection(str(temporary))
        try:
            db.pragma("journal_mode", "OFF")
            db.pragma("synchronous", "OFF")
            with db:
                db.execute(_SCHEMA)
                count = _fill(db, documents)
                db.pragma("user_version", max(count, 1))
        finally:
            db.close()
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _fill(db: apsw.Connection, documents: list[Document]) -> int:
    number = 0
    rows: list[tuple[int, str, str, str, int, str]] = []
    words: list[tuple[int, str, str]] = []
    for document in documents:
        for section in document_sections(document.path, document.text):
            number += 1
            rows.append(
                (number, section.path, section.name, section.kind, section.start, section.text)
            )
            name = stems(f"{section.path.rsplit('.', 1)[0]} {section.name}")
            words.append((number, _plain(name), _plain(stems(section.text))))
    db.executemany("INSERT INTO section VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO fts(rowid, name, body) VALUES (?, ?, ?)", words)
    return number


def _plain(tokens: list[str]) -> str:
    return " ".join(tokens)


def _index_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.sqlite"


def _prune(folder: Path) -> None:
    """Delete all but the most recently used indexes, and what dead builders left behind."""
    with contextlib.suppress(OSError):
        used = sorted(folder.glob("*.sqlite"), key=lambda path: -path.stat().st_mtime)
        for path in used[MAX_CACHED:]:
            path.unlink(missing_ok=True)
        for path in folder.glob(".*.tmp"):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
