"""What lies in a corpus and is no document."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator_svc.agents.corpus.source import read_documents

TEXT = "# Bees\n\nBees make honey.\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "bees.md").write_text(TEXT)
    return tmp_path


def test_pipes_devices_and_large_files_are_left_out(corpus: Path) -> None:
    os.mkfifo(corpus / "pipe.md")
    (corpus / "zeros.txt").symlink_to("/dev/zero")
    (corpus / "gone.md").symlink_to(corpus / "nowhere")
    with (corpus / "large.txt").open("wb") as file:
        file.truncate(64 << 20)
    assert [document.path for document in read_documents(str(corpus))] == ["bees.md"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9.md", b"two\nlines.md", b"a\x1b[2J.md", b"line\xe2\x80\xa8.md"]
)
def test_a_name_that_no_citation_can_show_is_left_out(corpus: Path, name: bytes) -> None:
    (corpus / os.fsdecode(name)).write_text(TEXT)
    (corpus / "é 蜂.md").write_text(TEXT)
    assert [document.path for document in read_documents(str(corpus))] == ["bees.md", "é 蜂.md"]
