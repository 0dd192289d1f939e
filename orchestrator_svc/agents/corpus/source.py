"""Finds and reads the documents of a corpus on disk. Together with `index` the only I/O here."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator_svc.agents.corpus.documents import (
    MAX_FILE_BYTES,
    STDLIB,
    SUFFIXES,
    wanted_file,
    wanted_folder,
)
from orchestrator_svc.agents.corpus.errors import CorpusUnavailableError

log = logging.getLogger(__name__)

#: What a line of Markdown or a record cannot hold: control characters, line ends, no UTF-8.
_UNQUOTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_FILES = 100_000  #: a larger corpus is refused, not truncated


@dataclass(frozen=True, slots=True)
class Document:
    """A file of the corpus, read."""

    path: str  #: relative to the corpus root, forward slashes
    text: str  #: newlines normalised to `\\n`
    digest: bytes  #: sha256 of the bytes


def corpus_root(corpus: str) -> Path:
    """Return the folder that `corpus` names; citations are relative to it."""
    if corpus == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    return Path(corpus).expanduser()


def validate_corpus(corpus: str) -> None:
    """Raise `CorpusUnavailableError` unless `corpus` is a readable corpus with a document in it.

    Cheap: stops at the first document. Meant for StartProject and the command line.
    """
    root = corpus_root(corpus)
    if not corpus.strip():
        raise CorpusUnavailableError(corpus, "no corpus is named", f"name {STDLIB!r} or a folder")
    if not root.exists():
        raise CorpusUnavailableError(
            corpus, "the folder does not exist", f"name an existing folder or {STDLIB!r}"
        )
    if not root.is_dir():
        raise CorpusUnavailableError(corpus, "not a folder", "name the folder that holds the file")
    if not os.access(root, os.R_OK | os.X_OK):
        raise CorpusUnavailableError(
            corpus, "the folder cannot be read", "grant read access to the orchestrator's user"
        )
    if next(document_paths(corpus), None) is None:
        kinds = " ".join(SUFFIXES)
        raise CorpusUnavailableError(
            corpus, f"the folder holds no {kinds} file", "add documents or name another folder"
        )


def document_paths(corpus: str) -> Iterator[tuple[str, Path]]:
    """Yield (relative path, path) of each document, in an order that does not depend on the disk.

    Links to folders are not followed, so the walk ends. A path that no citation could show is
    logged and left out.
    """
    root, stdlib = corpus_root(corpus), corpus == STDLIB
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if wanted_folder(name, stdlib=stdlib))
        for name in sorted(files):
            if wanted_file(name, stdlib=stdlib):
                path = Path(folder, name)
                relative = path.relative_to(root).as_posix()
                if _UNQUOTABLE.search(relative):
                    log.warning("document left out: its name", extra={"path": ascii(relative)})
                else:
                    yield relative, path


def read_documents(corpus: str) -> list[Document]:
    """Read every document of `corpus`; unreadable and oversize files are logged and left out.

    So are pipes, sockets and devices, which have no end or block.
    """
    documents: list[Document] = []
    for relative, path in document_paths(corpus):
        try:
            data = _read_file(path)
        except OSError as error:
            log.warning("document left out: %s", error.strerror, extra={"path": relative})
            continue
        text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        documents.append(Document(relative, text, hashlib.sha256(data).digest()))
        if len(documents) > MAX_FILES:
            raise CorpusUnavailableError(
                corpus, f"more than {MAX_FILES} documents", "name a smaller folder"
            )
    if not documents:
        validate_corpus(corpus)
        raise CorpusUnavailableError(
            corpus, "no document can be read", "check the permissions of its files"
        )
    return documents


def _read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raises `OSError` for any other, and a large one."""
    # Not blocking: opening a pipe waits for a writer otherwise.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, "too large")
    return data


def content_key(documents: list[Document], format_version: int) -> str:
    """Return the key under which the index of exactly these documents is cached."""
    digest = hashlib.sha256(f"{format_version} {sys.version_info[:2]}".encode())
    for document in documents:
        digest.update(document.path.encode("utf-8", "surrogateescape") + b"\0" + document.digest)
    return digest.hexdigest()[:32]
