"""Corpora and index folders that the tests share, so that each index is built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator_svc.agents.corpus import STDLIB, CorpusAgents, corpus_root
from tests.unit.orchestrator_svc.agents.corpus.driver import Driver

_STDLIB_PART = ("asyncio", "zipfile.py", "zipfile", "functools.py", "json", "threading.py")


@pytest.fixture(scope="session")
def apiary() -> Path:
    """A folder of Markdown, text, reStructuredText and Python about keeping bees."""
    return Path(__file__).with_name("apiary")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of a few modules of the standard library."""
    root, copy = corpus_root(STDLIB), tmp_path_factory.mktemp("library")
    for name in _STDLIB_PART:
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).exists():
            shutil.copy(root / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the indexes."""
    return tmp_path_factory.mktemp("indexes")


@pytest.fixture(scope="session")
def drive(cache_dir: Path) -> Callable[..., Driver]:
    """Return a function that makes a driver for a corpus."""

    shared = CorpusAgents()

    def make(corpus: Path | str, max_depth: int = 5, *, fresh: bool = False) -> Driver:
        options = {"corpus": str(corpus), "corpus_cache_dir": str(cache_dir)}
        return Driver(dict(options), max_depth, None if fresh else shared)

    return make
