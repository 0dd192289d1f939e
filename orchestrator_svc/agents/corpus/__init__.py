"""Agents that research a folder of documents without a model: extractive, deterministic, cited.

`CorpusAgents` implements all four roles of `orchestrator_svc.agents.base`. Agent options:

- `corpus`: `"stdlib"` (the running interpreter's standard library) or a folder of .md .txt .rst .py
- `corpus_cache_dir`: folder of the full-text indexes, one file per content

`validate_corpus` refuses a corpus that cannot be read, before a project is made of it.
"""

from orchestrator_svc.agents.corpus.agents import CorpusAgents
from orchestrator_svc.agents.corpus.documents import STDLIB
from orchestrator_svc.agents.corpus.errors import CorpusUnavailableError, InvalidOptionError
from orchestrator_svc.agents.corpus.report import cited_text
from orchestrator_svc.agents.corpus.source import corpus_root, validate_corpus

__all__ = [
    "CorpusAgents",
    "CorpusUnavailableError",
    "InvalidOptionError",
    "STDLIB",
    "cited_text",
    "corpus_root",
    "validate_corpus",
]
