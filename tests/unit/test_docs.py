"""The pages tell the truth about this tree: the tests and the files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
} | {"tests/faults/FOUND.md": (ROOT / "tests/faults/FOUND.md").read_text("utf-8")}
#: A short path is below one of these.
FOLDERS = ["", "state_svc", "orchestrator_svc", "clients/python/ramify", *(
    folder.relative_to(ROOT).as_posix() for folder in (ROOT / "tests").rglob("*") if folder.is_dir()
)]  # fmt: skip
_PATH = re.compile(r"[\w-]+(?:/[\w-]+)*\.(?:py|md|proto|yaml|txt)")


def _find(path: str) -> list[Path]:
    return [place for folder in FOLDERS if (place := ROOT / folder / path).exists()]


def _names(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = [name.partition("::")[0] for name in _names(PAGES[page]) if "/" in name]
    paths = [name for name in named if _PATH.fullmatch(name)]
    assert [path for path in paths if not _find(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    missing, file = [], ""
    for name in _names(PAGES[page]):
        path, _, test = name.rpartition("::")
        # `…::test_x` is in the file that was named last.
        file = file if path == "…" or not path else path
        if test.startswith("test_") and path:
            texts = [place.read_text("utf-8") for place in _find(file)]
            if not any(
                re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE) for text in texts
            ):
                missing.append(name)
    assert missing == []
