"""Cutting documents into sections with exact lines."""

import ast
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.agents.corpus import python_sections as python_sections_module
from orchestrator_svc.agents.corpus.documents import document_sections, wanted_file, wanted_folder
from orchestrator_svc.agents.corpus.python_sections import python_sections
from orchestrator_svc.agents.corpus.section import MAX_SECTION_LINES, Kind, Section, pieces

PYTHON = dedent(
    '''\
    #!/usr/bin/env python3
    """What the module is for.

    More about it.
    """

    # A comment about the constant that
    # goes over two lines of text.
    LIMIT = "# not a comment, nor a docstring"


    class Queue:
        r"""A queue of items."""

        size = {"key": """just a value"""}

        async def get(
            self, default="x:",  # the default of the call
        ):
            """Remove and return an item."""
            # Wait until the queue holds an item or is closed.
            return default

        def put(self): "Add an item."


    def outer():
        x = """no docstring at all"""

        def inner():
            """Do the inner work."""
    '''
)


def test_docstrings_and_comments_of_python_are_sections_named_by_their_scope() -> None:
    found = [(s.name, s.kind, s.start, s.end) for s in document_sections("pkg/mod.py", PYTHON)]
    assert found == [
        ("pkg.mod", Kind.MODULE, 2, 4),
        ("pkg.mod", Kind.COMMENT, 7, 8),
        ("pkg.mod.Queue", Kind.CLASS, 13, 13),
        ("pkg.mod.Queue.get", Kind.FUNCTION, 20, 20),
        ("pkg.mod.Queue.get", Kind.COMMENT, 21, 21),
        ("pkg.mod.Queue.put", Kind.FUNCTION, 24, 24),
        ("pkg.mod.outer.inner", Kind.FUNCTION, 31, 31),
    ]


def test_what_stands_before_a_module_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = python_sections_module._BEFORE_MODULE_DOC
    looked: list[int] = []

    class Counting:
        def match(self, text: str) -> object:
            looked.append(len(text))
            return pattern.match(text)

    monkeypatch.setattr(python_sections_module, "_BEFORE_MODULE_DOC", Counting())
    text = "X = [\n" + '    "a string that is no docstring",\n' * 500 + "]\n"
    assert list(python_sections("data.py", text)) == []
    assert looked == [len(text)]


@pytest.mark.parametrize(
    "text, line",
    [
        ('"""What it is for."""', 1),
        ('\ufeff# coding\n\n  # note\nR"""What it is for."""', 4),
        ("\n\nu'What it is for.'\n", 3),
        ('b"""What it is for."""', None),
        ('x = """What it is for."""', None),
        ('# note\nu = r"""What it is for."""', None),
        (' """What it is for."""', None),
    ],
)
def test_the_docstring_of_a_module_comes_before_all_code(text: str, line: int | None) -> None:
    found = [section.start for section in python_sections("m.py", text)]
    assert found == ([] if line is None else [line])


def test_the_scan_finds_the_docstrings_that_the_compiler_finds(library: Path) -> None:
    for path in sorted(library.rglob("*.py")):
        text = path.read_text("utf-8")
        expected = {
            (node.body[0].value.lineno, node.body[0].value.end_lineno)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and (ast.get_docstring(node) or "").strip()
            and isinstance(node.body[0], ast.Expr)
        }
        docstrings = (Kind.MODULE, Kind.CLASS, Kind.FUNCTION)
        found = [s for s in python_sections(path.name, text) if s.kind in docstrings]
        assert len(found) == len(expected), path
        for section in found:
            assert any(a <= section.start and section.end <= (b or a) for a, b in expected), path


def test_a_package_is_named_by_its_folder() -> None:
    (section,) = document_sections("pkg/__init__.py", '"""What the package is."""\n')
    assert section.name == "pkg"


def test_licence_texts_are_left_out() -> None:
    text = "# Copyright 2001 by someone.  All rights reserved, without warranty.\n"
    assert not list(document_sections("a.py", text))


MARKDOWN = dedent(
    """\
    Before any heading.

    # Bees

    Bees fly.

    ```
    # not a heading
    ```

    ## Queens
    One per hive.

    Drones
    ------

    Many per hive.
    """
)


def test_markdown_is_cut_at_its_headings_and_code_is_blank() -> None:
    found = list(document_sections("bees.md", MARKDOWN))
    assert [(s.name, s.kind, s.start) for s in found] == [
        ("bees", Kind.TEXT, 1),
        ("Bees", Kind.HEADING, 5),
        ("Bees > Queens", Kind.HEADING, 12),
        ("Bees > Drones", Kind.HEADING, 17),
    ]
    assert "not a heading" not in found[1].text


def test_underlined_headings_cut_rst_and_text() -> None:
    text = "=====\nHives\n=====\n\nA hive is a box.\n\nFrames\n------\n\nTen of them.\n"
    for path in ("hives.rst", "hives.txt"):
        found = list(document_sections(path, text))
        assert [(s.name, s.start) for s in found] == [("Hives", 5), ("Hives > Frames", 10)]


_LINES = (
    *("", "# a", "## b", "text here", "----", "===", '"""', "'''", "def f():", "class C:", "---"),
    *("    # c d e f g h", '    """doc"""', "```", '"', "\\", "\t#", "> x", "- y", "  def g(a="),
)


@pytest.mark.parametrize("path", ["a.md", "a.rst", "a.txt", "a.py"])
@given(
    st.lists(
        st.sampled_from(_LINES),
        max_size=30,
    )
)
def test_every_line_of_a_section_stands_at_its_place(path: str, lines: list[str]) -> None:
    for section in document_sections(path, "\n".join(lines)):
        for number, line in enumerate(section.lines, section.start):
            for word in line.replace('"', " ").replace("'", " ").replace("#", " ").split():
                assert word in lines[number - 1]


@given(st.lists(st.sampled_from(["", "x"]), min_size=1, max_size=400))
def test_pieces_are_bounded_and_lose_no_text(lines: list[str]) -> None:
    whole = Section("a.txt", "a", Kind.TEXT, 1, tuple(lines))
    cut = pieces(whole)
    assert all(len(piece.lines) <= MAX_SECTION_LINES for piece in cut)
    kept = {n for piece in cut for n, x in enumerate(piece.lines, piece.start) if x}
    assert kept == {n for n, x in enumerate(lines, 1) if x}


def test_only_documents_belong_to_a_corpus() -> None:
    assert wanted_file("Readme.MD", stdlib=False)
    assert not wanted_file("photo.png", stdlib=False)
    assert not wanted_file(".hidden.md", stdlib=False)
    assert wanted_folder("tests", stdlib=False)
    assert not wanted_folder("test", stdlib=True)
    assert not wanted_folder("site-packages", stdlib=True)
