"""What can go wrong with a corpus before any research starts."""

from __future__ import annotations

from orchestrator_svc.agents.base import AgentError, ErrorClass


class CorpusUnavailableError(AgentError):
    """The corpus named by a project cannot be read: no folder, no documents, no access.

    Remedy: `remedy`, a sentence for the person who named the corpus.
    """

    def __init__(self, corpus: str, problem: str, remedy: str) -> None:
        super().__init__(ErrorClass.EXECUTION, f"corpus {corpus!r}: {problem}; {remedy}")
        self.corpus = corpus
        self.problem = problem
        self.remedy = remedy


class InvalidOptionError(AgentError):
    """An agent option has a value that the corpus agents cannot use.

    Remedy: correct `option` in the project's agent options.
    """

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(ErrorClass.EXECUTION, f"agent option {option!r}: {problem}")
        self.option = option
        self.problem = problem


def no_evidence(message: str) -> AgentError:
    """Return the error of a node for which the corpus holds nothing (SEM 26)."""
    return AgentError(ErrorClass.NO_EVIDENCE, message)


def invalid_output(message: str) -> AgentError:
    """Return the error for a dependency or child whose output cannot be read."""
    return AgentError(ErrorClass.INVALID_OUTPUT, message)
