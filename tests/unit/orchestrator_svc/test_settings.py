"""The one list of execution keys: complete, the same everywhere, and strict."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator_svc.graph.settings import KEYS as CORE_KEYS
from orchestrator_svc.graph.settings import Scalar, Settings, effective
from orchestrator_svc.settings import (
    ALL_KEYS,
    KEYS,
    InvalidSetting,
    Kind,
    from_message,
    read_settings,
    read_stored,
    settle,
    to_message,
    to_state_message,
)
from ramify.setting_keys import FIELDS, parse, shown
from ramify.v1.project_pb2 import ExecutionSettings, StatePreset, StateSettings
from state_svc.model.validate import check_settings

ROOT = Path(__file__).resolve().parents[3]


def other_value(name: str) -> Scalar:
    """Return an allowed value that is not the default."""
    key = ALL_KEYS[name]
    if key.choices is not None:
        return next(text for text in key.choices if text != key.default)
    if isinstance(key.default, bool):
        return not key.default
    value = key.least if key.default != key.least else key.most
    return value if key.kind is Kind.NUMBER else int(value)


def test_the_core_has_every_key_with_the_default_of_the_contract() -> None:
    assert set(CORE_KEYS) <= set(KEYS)
    assert asdict(Settings()) == {name: KEYS[name].default for name in CORE_KEYS}


def test_the_docs_name_for_every_key_a_file_that_acts_on_it() -> None:
    page = (ROOT / "docs" / "execution.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w/.]+)`", page, re.MULTILINE))
    assert list(rows) == list(KEYS)
    for name, file in rows.items():
        services = ("orchestrator_svc", "state_svc")
        found = [ROOT / service / file for service in services]
        texts = [path.read_text("utf-8") for path in found if path.exists()]
        assert any(re.search(rf"\b{name}\b", text) for text in texts), name
    assert all(key.meaning for key in KEYS.values())


def test_every_key_has_a_test_that_changing_it_changes_behaviour() -> None:
    proven = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r'mark\.execution_key\(\s*"(\w+)"', path.read_text("utf-8"))
    }
    storage = {"state_batch_size", "state_batch_timeout_ms", "enable_state_compression"}
    assert proven == set(KEYS) | storage


@pytest.mark.parametrize("name", ALL_KEYS)
def test_a_key_is_read_alike_from_a_file_a_flag_and_a_message(name: str) -> None:
    value = other_value(name)
    chosen = {name: value}
    assert read_settings(chosen) == read_settings({name: str(value).lower()}) == chosen
    message = ExecutionSettings() if name in KEYS else StateSettings()
    setattr(message, name, parse(FIELDS[name], str(value)))
    assert from_message(message) == chosen
    assert shown(message, FIELDS[name]) in (str(value), str(value).lower())
    assert check_settings(message) == ""


@pytest.mark.parametrize("name", KEYS)
def test_a_chosen_key_is_stored_with_the_project_and_found_again(name: str) -> None:
    chosen = {name: other_value(name)}
    message = to_message(effective(chosen), chosen)
    stored = read_stored(message)
    assert stored == {**stored, **asdict(effective(chosen)), **chosen}
    assert set(stored) == CORE_KEYS | {name}
    assert to_state_message(chosen) == StateSettings()


def test_keys_of_storage_are_those_of_the_orchestrator_below_those_of_the_project() -> None:
    ours: dict[str, Scalar] = {"state_batch_size": 100, "max_retries": 1}
    merged = to_state_message(ours, {"state_batch_timeout_ms": 50})
    assert merged == StateSettings(state_batch_size=100, state_batch_timeout_ms=50)
    preset = to_state_message(ours, {"preset": "debug"})
    assert preset == StateSettings(preset=StatePreset.STATE_PRESET_DEBUG), "the later choice"
    assert to_state_message({}, {}) == StateSettings()


@pytest.mark.parametrize("name", [n for n, key in ALL_KEYS.items() if key.most])
def test_a_number_out_of_range_is_refused_by_everybody(name: str) -> None:
    key = ALL_KEYS[name]
    for value in (key.most + 1, key.least - 1, float("nan"), float("inf")):
        with pytest.raises(InvalidSetting, match=re.escape(f"{name}: takes {key.allowed}")):
            read_settings({name: value})
        with pytest.raises((ValueError, OverflowError)):
            parse(FIELDS[name], str(value))
    message = ExecutionSettings() if name in KEYS else StateSettings()
    setattr(message, name, int(key.most) + 1)
    assert name in check_settings(message)
    with pytest.raises(InvalidSetting):
        from_message(message)
    if isinstance(message, ExecutionSettings):
        assert read_stored(message) == {}


@pytest.mark.parametrize(
    "values",
    [
        {"max_retry": 1},
        {"max_retries": True},
        {"max_retries": 1.5},
        {"max_retries": "many"},
        {"max_retries": None},
        {"max_retries": [1]},
        {"skip_atomization": "perhaps"},
        {"skip_atomization": 2},
    ],
)
def test_what_is_no_key_or_no_value_of_it_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting, match=next(iter(values))):
        read_settings(values)


def test_later_layers_win() -> None:
    layers: list[dict[str, Scalar]] = [{"max_retries": 1, "skip_atomization": True}]
    settings = settle(*layers, {"max_retries": 0})
    assert (settings.max_retries, settings.skip_atomization) == (0, True)
    assert settings.retry_delay_seconds == Settings().retry_delay_seconds


CHECKPOINTS = [name for name in KEYS if re.match("hitl_(after|before|aggregation)_", name)]


def test_asking_humans_at_no_checkpoint_is_refused_with_what_is_missing() -> None:
    assert len(CHECKPOINTS) == 5
    off: dict[str, Scalar] = dict.fromkeys(CHECKPOINTS, False)
    assert not settle(off).enable_hitl
    with pytest.raises(InvalidSetting, match="enable_hitl: asks nobody: one of") as refused:
        settle(off, {"enable_hitl": True})
    assert all(name in refused.value.problem for name in CHECKPOINTS)
    for name in CHECKPOINTS:
        assert settle(off, {"enable_hitl": True, name: True}).enable_hitl
