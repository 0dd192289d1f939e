"""Moves that the doctor forces: what was found, what is done, and the record of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Pattern(enum.StrEnum):
    """Ways in which a run can be unable to go on (S2.5)."""

    CIRCULAR_DEPENDENCY = "circular_dependency"  #: nodes wait for each other
    PARENT_CHILD_SYNC = "parent_child_sync"  #: a node and its parent contradict each other
    STUCK_AGGREGATION = "stuck_aggregation"  #: all children have ended, the parent does not go on
    ORPHANED_NODES = "orphaned_nodes"  #: not below the root
    SINGLE_NODE_HANG = "single_node_hang"  #: at work as it seems, but nobody works on it
    RESOURCE_STARVATION = "resource_starvation"  #: could run, slots are free, has no turn
    UNKNOWN = "unknown"  #: nothing can run, and none of the above


class Action(enum.StrEnum):
    """What the doctor does about it, as moves that the state table allows (SEM 8, 29)."""

    RETRY = "retry"  #: another attempt, which counts as no retry
    REPLAN = "replan"  #: a new plan
    FAIL = "fail"
    FORCE_COMPLETE = "force_complete"  #: DONE with what the children have produced
    RESET_STATE = "reset_state"  #: the state and the counters that the tree implies
    SKIP = "skip"  #: CANCELLED


@dataclass(frozen=True, slots=True)
class Forced:
    """The record of one forced move; stored with the node as its attribute `forced_by`."""

    pattern: Pattern
    action: Action
    before: str  #: state when the doctor came
    after: str  #: state that the action leads to
    reason: str  #: what was found, for people
