"""Which files belong to a corpus, and how each kind of file is cut into sections. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator_svc.agents.corpus.markup_sections import markdown_sections, rst_sections
from orchestrator_svc.agents.corpus.python_sections import python_sections
from orchestrator_svc.agents.corpus.section import Section, pieces

STDLIB = "stdlib"  #: the corpus name of the running interpreter's standard library
SUFFIXES = (".md", ".txt", ".rst", ".py")
MAX_FILE_BYTES = 8 << 20  #: a larger file is left out: it is data, not a document

#: Folders that hold no documents in any corpus.
_NEVER = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
#: Folders of the standard library that hold tests, tools' data or text of other projects.
_NOT_STDLIB = frozenset(
    {
        "_bundled",
        "encodings",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "test",
        "tests",
        "turtledemo",
        "__phello__",
    }
)


def wanted_folder(name: str, *, stdlib: bool) -> bool:
    """Return whether a folder called `name` is searched for documents."""
    if name in _NEVER or name.startswith("."):
        return False
    return not stdlib or not (name in _NOT_STDLIB or name.startswith("config-"))


def wanted_file(name: str, *, stdlib: bool) -> bool:
    """Return whether a file called `name` is a document."""
    if name.startswith("."):
        return False
    if stdlib:
        return name.endswith(".py") and not name.startswith("_sysconfigdata")
    return name.lower().endswith(SUFFIXES)


def document_sections(path: str, text: str) -> Iterator[Section]:
    """Yield the sections of the document at `path`, each of bounded length."""
    lower = path.lower()
    if lower.endswith(".py"):
        found = python_sections(path, text)
    elif lower.endswith(".md"):
        found = markdown_sections(path, text)
    else:
        found = rst_sections(path, text)
    for section in found:
        yield from pieces(section)
