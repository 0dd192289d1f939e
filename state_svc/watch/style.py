"""How a watch is served: by the request, else the project, else the service (SEM 24). Pure."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ramify.v1.project_pb2 import BroadcastMode, ExecutionSettings, WatchPriority
from ramify.v1.state_service_pb2 import (
    Coalescing,
    WatchMode,
    WatchProjectRequest,
)
from state_svc.watch.filter import ViewFilter

ZSTD = "zstd"
_NEVER_FULL = sys.maxsize
_FULL, _BATCH, _NONE = (
    BroadcastMode.BROADCAST_MODE_FULL,
    BroadcastMode.BROADCAST_MODE_BATCH,
    BroadcastMode.BROADCAST_MODE_NONE,
)
#: Seconds that a watch, or a project, lets others go first.
_PATIENCE = {WatchPriority.WATCH_PRIORITY_LOW: 0.2, WatchPriority.WATCH_PRIORITY_HIGH: 0.0}
_USUAL_PATIENCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastDefaults:
    """What holds for projects whose settings do not say."""

    diffs: bool = True
    batch_changes: int = 50
    batch_seconds: float = 0.1
    compress: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStyle:
    """Watches of a project with equal styles are sent the same bytes, but for where they stand."""

    filter: ViewFilter
    coalescing: Coalescing.ValueType
    encoding: str  #: of messages for which it pays; empty: none
    hold_seconds: float  #: least time between messages …
    hold_changes: int  #: … unless so many changes wait
    immediate: bool  #: not paced and not held

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two styles equal."""
        always = self.coalescing == Coalescing.COALESCING_ALWAYS
        hold = (self.hold_seconds, self.hold_changes)
        return (self.filter.key, always, self.encoding, hold, self.immediate)

    @property
    def merges(self) -> bool:
        """Whether every message holds the latest values only."""
        return self.coalescing == Coalescing.COALESCING_ALWAYS


def choose_style(
    request: WatchProjectRequest, settings: ExecutionSettings, defaults: BroadcastDefaults
) -> WatchStyle:
    """Return the style of a watch that is opened now; it keeps it until its end."""
    mode = request.mode or _mode_of(settings, defaults)
    hold_seconds, hold_changes = request.max_interval_ms / 1_000, _NEVER_FULL
    batched = not request.mode and settings.broadcast_mode == _BATCH
    if batched and not request.max_interval_ms:
        hold_seconds = _or(settings, "ws_batch_timeout_ms", defaults.batch_seconds * 1_000) / 1_000
        hold_changes = int(_or(settings, "ws_batch_size", defaults.batch_changes))
    compress = _or(settings, "enable_ws_compression", defaults.compress)
    return WatchStyle(
        filter=ViewFilter(request.filter, mode),
        coalescing=request.coalescing or Coalescing.COALESCING_BEHIND,
        encoding=ZSTD if compress and ZSTD in request.accept_encodings else "",
        hold_seconds=0.0 if request.force_immediate else hold_seconds,
        hold_changes=hold_changes,
        immediate=request.force_immediate,
    )


def patience_of(priority: WatchPriority.ValueType) -> float:
    """Return the seconds that a watch of this priority lets others go first."""
    return _PATIENCE.get(priority, _USUAL_PATIENCE)


def _mode_of(settings: ExecutionSettings, defaults: BroadcastDefaults) -> WatchMode.ValueType:
    if settings.broadcast_mode == _NONE:
        return WatchMode.WATCH_MODE_TERMINAL
    if settings.broadcast_mode == _FULL or not _or(settings, "enable_diff_updates", defaults.diffs):
        return WatchMode.WATCH_MODE_FULL
    return WatchMode.WATCH_MODE_DIFF


def _or(settings: ExecutionSettings, name: str, default: float) -> float:
    value: float = getattr(settings, name)
    return value if settings.HasField(name) else default  # type: ignore[arg-type]
