"""Named places where a test can make the process die, fail or wait.

`RAMIFY_FAILPOINTS="before_commit=kill@3"` kills the process (SIGKILL, so that no code runs) the
third time the place is reached. Actions: `kill`, `error` (raises OSError), `sleep:SECONDS`,
`hold:FILE` (writes a line into the file and waits as long as it is there); `@N` means the Nth time
only, without it every time. Nothing is checked when the variable is unset.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: On the way of a commit.
COMMIT = (
    "before_begin",
    "before_commit",
    "after_commit",
    "before_ack",
    "after_ack",
    "before_publish",
    "after_publish",
)
#: On the way of a body: put, named, compacted away, collected.
PAYLOAD = (
    "in_payload_put",
    "after_payload_put",
    "in_references",
    "after_archive",
    "after_compact_mark",
    "before_release",
    "in_payload_drop",
    "after_payload_drop",
)
NAMES = COMMIT + PAYLOAD
_HOLD_SECONDS = 0.005


@dataclass(slots=True)
class _Action:
    kind: str
    seconds: float  #: to sleep
    file: Path  #: to wait for
    at: int  #: which time, from 1; 0: every time
    reached: int = 0


def parse(text: str) -> dict[str, _Action]:
    """Return the actions of a setting. Raises ValueError for names and actions that are not."""
    actions: dict[str, _Action] = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition("=")
        action, _, at = rest.partition("@")
        kind, _, value = action.partition(":")
        if name not in NAMES or kind not in ("kill", "error", "sleep", "hold"):
            raise ValueError(f"unknown failpoint {item!r}")
        if kind == "hold" and not value:
            raise ValueError(f"failpoint {item!r} names no file")
        seconds = float(value) if kind == "sleep" else 0.0
        actions[name] = _Action(kind, seconds, Path(value), int(at or 0))
    return actions


_actions = parse(os.environ.get("RAMIFY_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Do what the environment says should happen here."""
    action = _actions.get(name) if _actions else None
    if action is None:
        return
    action.reached += 1
    if action.at and action.reached != action.at:
        return
    if action.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action.kind == "error":
        raise OSError(f"failpoint {name}")
    elif action.kind == "sleep":
        time.sleep(action.seconds)
    else:
        _wait_for_the_end_of(action.file)


def _wait_for_the_end_of(file: Path) -> None:
    # Not in a way that would make the file: it may be gone already.
    with suppress(FileNotFoundError), file.open("r+") as held:
        held.write("held\n")
    while file.exists():
        time.sleep(_HOLD_SECONDS)
