"""The words of a run. Names equal the enum values of `ramify.v1` without their prefix."""

from __future__ import annotations

import enum


class NodeState(enum.StrEnum):
    """Lifecycle of a node; the legal moves are options of the enum in the contract."""

    PENDING = "PENDING"
    READY = "READY"
    RUNNING = "RUNNING"
    PLAN_DONE = "PLAN_DONE"
    AGGREGATING = "AGGREGATING"
    DONE = "DONE"
    FAILED = "FAILED"
    NEEDS_REPLAN = "NEEDS_REPLAN"
    CANCELLED = "CANCELLED"


class ProjectState(enum.StrEnum):
    """Lifecycle of a run (SEM 26)."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class TaskType(enum.StrEnum):
    """What kind of work a node is."""

    SEARCH = "SEARCH"
    WRITE = "WRITE"
    THINK = "THINK"
    CODE_INTERPRET = "CODE_INTERPRET"
    AGGREGATE = "AGGREGATE"
    IMAGE_GENERATION = "IMAGE_GENERATION"
    CUSTOM = "CUSTOM"


class NodeType(enum.StrEnum):
    """Whether a node is split into children or executed as it is."""

    PLAN = "PLAN"
    EXECUTE = "EXECUTE"


class Stage(enum.StrEnum):
    """What an agent is asked to do in one call."""

    ATOMIZE = "atomize"
    PLAN = "plan"
    EXECUTE = "execute"
    AGGREGATE = "aggregate"
    MODIFY = "modify"


class ErrorClass(enum.StrEnum):
    """Classes of failure; `recovery.py` decides by them (S2.3)."""

    TIMEOUT = "TIMEOUT"
    RATE_LIMIT = "RATE_LIMIT"
    CONNECTION = "CONNECTION"
    INVALID_OUTPUT = "INVALID_OUTPUT"
    EXECUTION = "EXECUTION"
    AUTH = "AUTH"
    NO_EVIDENCE = "NO_EVIDENCE"
    CANCELLED = "CANCELLED"
    DEPENDENCY_FAILED = "DEPENDENCY_FAILED"
    LIMIT = "LIMIT"
    REJECTED = "REJECTED"


class OnExhausted(enum.StrEnum):
    """What to do about a node whose recoveries are used up (S2.3)."""

    FAIL = "fail"
    PAUSE = "pause"  #: pause the run; the node gets a fresh start when it is resumed
    REPLAN = "replan"  #: let the parent be planned again
    ASK = "ask"  #: ask a human whether the node gets a fresh start


class OnDependencyFailure(enum.StrEnum):
    """What becomes of a node when something it depends on has failed (S2.4, SEM 25)."""

    FAIL = "fail"
    RUN = "run"  #: begin all the same, with the error as context
    REPLAN = "replan"  #: let the parent be planned again
    SKIP = "skip"  #: cancelled, not counted as a failure


class CommandType(enum.StrEnum):
    """What an operator may order."""

    CANCEL_PROJECT = "CANCEL_PROJECT"
    PAUSE_PROJECT = "PAUSE_PROJECT"
    RESUME_PROJECT = "RESUME_PROJECT"
    CANCEL_NODE = "CANCEL_NODE"
    RETRY_NODE = "RETRY_NODE"
    REPLAN_NODE = "REPLAN_NODE"
    UNKNOWN = "UNKNOWN"  #: given by a newer version; refused


class CommandState(enum.StrEnum):
    """What became of an order."""

    OPEN = "OPEN"
    APPLIED = "APPLIED"
    REFUSED = "REFUSED"


#: Nothing runs any more in these; a test compares them with the contract.
TERMINAL_NODE_STATES = frozenset({NodeState.DONE, NodeState.FAILED, NodeState.CANCELLED})
TERMINAL_PROJECT_STATES = frozenset(
    {
        ProjectState.COMPLETED,
        ProjectState.PARTIAL,
        ProjectState.FAILED,
        ProjectState.CANCELLED,
    }
)
