"""Keys of storage of one project: the service's, above them its preset, above that its own."""

from __future__ import annotations

from typing import Any

import pytest

from ramify.v1.project_pb2 import StatePreset, StateSettings
from state_svc.model.storing import Storing, StoringRules, effective
from state_svc.model.validate import check_settings

_DEBUG = StatePreset.STATE_PRESET_DEBUG


def test_a_projects_keys_win_over_its_preset_and_that_over_the_service() -> None:
    base = Storing(state_batch_size=77, state_batch_timeout_ms=88, retention_revisions=9)
    found = effective(base, StateSettings(preset=_DEBUG, state_batch_timeout_ms=3))
    assert (found.state_batch_size, found.state_batch_timeout_ms) == (1, 3)
    assert found.retention_revisions == 9
    assert effective(base, StateSettings(retention_revisions=0)).keeps_everything


def test_without_settings_the_services_keys_are_in_force() -> None:
    base = Storing(state_batch_size=77)
    assert effective(base, StateSettings()) == base


def test_a_preset_of_a_newer_version_changes_nothing() -> None:
    unknown: Any = 99
    assert effective(Storing(), StateSettings(preset=unknown)) == Storing()


def test_without_compression_nothing_reaches_the_threshold() -> None:
    off = Storing(enable_state_compression=False, compression_threshold_bytes=0)
    assert off.compression_threshold > 1 << 40
    assert Storing(compression_threshold_bytes=512).compression_threshold == 512


def test_equal_settings_share_one_result() -> None:
    rules = StoringRules(Storing())
    first, second = StateSettings(preset=_DEBUG), StateSettings(preset=_DEBUG)
    assert rules.of(first) is rules.of(second)


@pytest.mark.parametrize(
    "fields",
    [
        {"preset": 99},
        {"state_batch_size": 0},
        {"state_batch_size": 100_001},
        {"state_batch_timeout_ms": 60_001},
        {"compression_threshold_bytes": 1 << 31},
        {"retention_seconds": 1 << 40},
    ],
)
def test_a_key_out_of_its_range_is_refused(fields: dict[str, Any]) -> None:
    assert check_settings(StateSettings(**fields))


def test_keys_in_their_ranges_are_taken() -> None:
    every = StateSettings(
        preset=_DEBUG, state_batch_size=1, state_batch_timeout_ms=0, retention_seconds=0
    )
    assert not check_settings(every)
