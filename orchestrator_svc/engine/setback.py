"""What an execution that has ended with an error means for the next one."""

from __future__ import annotations

import asyncio

from orchestrator_svc.errors import (
    IllegalTransition,
    InvalidMutation,
    InvalidRequest,
    NodeNotFound,
    PayloadTooLarge,
    RamifyError,
    leaves,
)
from orchestrator_svc.graph.event import TurnFailed
from orchestrator_svc.graph.setback import Setback
from orchestrator_svc.publish.errors_in import TRANSIENT

#: The same batch will be refused again.
REFUSALS = (InvalidMutation, IllegalTransition, InvalidRequest, NodeNotFound, PayloadTooLarge)


def setback_of(error: BaseException) -> Setback:
    """Return what an error means that has ended the execution of a run."""
    causes = [cause for cause in leaves(error) if not isinstance(cause, asyncio.CancelledError)]
    cause = next((c for c in causes if isinstance(c, TurnFailed)), causes[0] if causes else error)
    kind = type(cause).__name__
    if isinstance(cause, TurnFailed):
        return Setback(reason=str(cause), kind=kind, node_id=cause.node_id, refused=True)
    if not isinstance(cause, RamifyError):
        return Setback(reason=f"{kind}: {cause}", kind=kind, refused=not isinstance(cause, OSError))
    named = isinstance(cause, InvalidMutation)
    return Setback(
        reason=cause.message,
        kind=kind,
        node_id=cause.fields.get("node_id", "") if named else "",
        refused=isinstance(cause, REFUSALS),
        passes=isinstance(cause, TRANSIENT),
    )
