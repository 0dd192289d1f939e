"""How a watch is served: by its request, else its project, else the service (SEM 24, S2.6)."""

from __future__ import annotations

import pytest

from ramify.v1.project_pb2 import BroadcastMode, ExecutionSettings, WatchPriority
from ramify.v1.state_service_pb2 import Coalescing, WatchMode, WatchProjectRequest
from state_svc.watch.style import BroadcastDefaults, WatchStyle, choose_style, patience_of

_FULL = BroadcastMode.BROADCAST_MODE_FULL
_BATCH = BroadcastMode.BROADCAST_MODE_BATCH
_NONE = BroadcastMode.BROADCAST_MODE_NONE
_DIFF = WatchMode.WATCH_MODE_DIFF
_WHOLE = WatchMode.WATCH_MODE_FULL
_ENDED = WatchMode.WATCH_MODE_TERMINAL


def _style(
    request: WatchProjectRequest | None = None,
    defaults: BroadcastDefaults | None = None,
    **settings: object,
) -> WatchStyle:
    return choose_style(
        request or WatchProjectRequest(),
        ExecutionSettings(**settings),  # type: ignore[arg-type]
        defaults or BroadcastDefaults(),
    )


@pytest.mark.execution_key("broadcast_mode")
@pytest.mark.parametrize(
    "broadcast, mode, held",
    [(None, _DIFF, False), (_FULL, _WHOLE, False), (_BATCH, _DIFF, True), (_NONE, _ENDED, False)],
)
def test_the_project_says_what_watches_get_that_do_not_ask(
    broadcast: BroadcastMode.ValueType | None, mode: int, held: bool
) -> None:
    style = _style(broadcast_mode=broadcast)
    assert (style.filter.mode, style.hold_seconds > 0) == (mode, held)


@pytest.mark.parametrize("broadcast", [None, _FULL, _BATCH, _NONE])
@pytest.mark.parametrize("mode", [_DIFF, _WHOLE, _ENDED])
def test_what_a_watch_asks_for_wins_over_the_project(
    broadcast: BroadcastMode.ValueType | None, mode: WatchMode.ValueType
) -> None:
    style = _style(WatchProjectRequest(mode=mode), broadcast_mode=broadcast)
    assert (style.filter.mode, style.hold_seconds) == (mode, 0.0)


@pytest.mark.execution_key("enable_diff_updates")
def test_without_diffs_changes_carry_whole_entities() -> None:
    assert _style(enable_diff_updates=False).filter.mode == _WHOLE
    assert _style(broadcast_mode=_BATCH, enable_diff_updates=False).filter.mode == _WHOLE
    assert _style(broadcast_mode=_NONE, enable_diff_updates=False).filter.mode == _ENDED
    off = BroadcastDefaults(diffs=False)
    assert _style(defaults=off).filter.mode == _WHOLE
    assert _style(defaults=off, enable_diff_updates=True).filter.mode == _DIFF


@pytest.mark.execution_key("ws_batch_size")
@pytest.mark.execution_key("ws_batch_timeout_ms")
def test_the_ceilings_of_a_batch_are_the_projects_else_the_services() -> None:
    defaults = BroadcastDefaults(batch_changes=7, batch_seconds=0.25)
    style = _style(defaults=defaults, broadcast_mode=_BATCH)
    assert (style.hold_changes, style.hold_seconds) == (7, 0.25)
    style = _style(
        defaults=defaults, broadcast_mode=_BATCH, ws_batch_size=3, ws_batch_timeout_ms=500
    )
    assert (style.hold_changes, style.hold_seconds) == (3, 0.5)
    assert _style(ws_batch_size=3, ws_batch_timeout_ms=500).hold_seconds == 0.0, "no batches"


def test_an_interval_that_a_watch_asks_for_wins_over_the_batches_of_the_project() -> None:
    style = _style(WatchProjectRequest(max_interval_ms=2_000), broadcast_mode=_BATCH)
    assert style.hold_seconds == 2.0
    assert style.hold_changes > 1_000_000
    assert _style(WatchProjectRequest(force_immediate=True), broadcast_mode=_BATCH).immediate


@pytest.mark.execution_key("enable_ws_compression")
def test_messages_are_compressed_only_for_who_can_read_them_and_may_be_switched_off() -> None:
    able = WatchProjectRequest(accept_encodings=["br", "zstd"])
    assert _style().encoding == ""
    assert _style(WatchProjectRequest(accept_encodings=["br"])).encoding == ""
    assert _style(able).encoding == "zstd"
    assert _style(able, enable_ws_compression=False).encoding == ""
    assert _style(able, BroadcastDefaults(compress=False)).encoding == ""


@pytest.mark.execution_key("watch_priority")
def test_higher_priorities_let_others_go_first_for_less_time() -> None:
    low, unset, normal, high = (
        patience_of(priority)
        for priority in (
            WatchPriority.WATCH_PRIORITY_LOW,
            WatchPriority.WATCH_PRIORITY_UNSPECIFIED,
            WatchPriority.WATCH_PRIORITY_NORMAL,
            WatchPriority.WATCH_PRIORITY_HIGH,
        )
    )
    assert low > unset == normal > high == 0.0


def test_coalescing_is_for_watches_that_are_behind_unless_they_say() -> None:
    assert _style().coalescing == Coalescing.COALESCING_BEHIND
    never = WatchProjectRequest(coalescing=Coalescing.COALESCING_NEVER)
    always = WatchProjectRequest(coalescing=Coalescing.COALESCING_ALWAYS)
    assert (_style(never).merges, _style().merges, _style(always).merges) == (False, False, True)


def test_equal_styles_share_their_bytes_wherever_they_came_from() -> None:
    asked = _style(WatchProjectRequest(mode=_WHOLE))
    assert asked.key == _style(broadcast_mode=_FULL).key
    assert asked.key == _style(WatchProjectRequest(mode=_WHOLE), broadcast_mode=_NONE).key
    assert asked.key != _style().key
    # They differ in nothing that a live message shows.
    never = WatchProjectRequest(coalescing=Coalescing.COALESCING_NEVER)
    assert _style(never).key == _style().key
