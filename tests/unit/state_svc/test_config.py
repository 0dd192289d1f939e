"""Settings: defaults < file < environment < flags, and nothing unknown passes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from ramify.v1.project_pb2 import StatePreset, StateSettings
from ramify.v1.setting_pb2 import setting_rule
from state_svc.config import Settings, load
from state_svc.errors import InvalidConfig
from state_svc.model.storing import KEYS, PRESETS, Storing, preset_name

_DEFAULTS = Settings.model_validate({})


def _file(directory: Path, text: str | bytes) -> list[str]:
    path = directory / "ramify.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ["--config", str(path)]


def test_without_anything_the_defaults_are_in_force() -> None:
    assert load([], {}) == _DEFAULTS
    assert load([], {"OTHER_SVC_NOPE": "1"}) == _DEFAULTS


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(
    tmp_path: Path,
) -> None:
    file = _file(tmp_path, "state_svc: {state_batch_size: 2, log_level: DEBUG, listen: 'f:1'}")
    env = {"STATE_SVC_STATE_BATCH_SIZE": "3", "STATE_SVC_LOG_LEVEL": "ERROR"}
    found = load([*file, "--state-batch-size", "4"], env)
    assert (found.state_batch_size, found.log_level, found.listen) == (4, "ERROR", "f:1")
    assert load(file, env).state_batch_size == 3
    assert load(file, {}).state_batch_size == 2
    assert load(file, {}).drain_seconds == _DEFAULTS.drain_seconds


@pytest.mark.parametrize(
    "text", ["", "state_svc:", "orchestrator_svc: {x: 1}", "# nothing", "x-anchors: [1]"]
)
def test_a_file_without_our_section_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load(_file(tmp_path, text), {}) == _DEFAULTS


def test_an_unknown_key_in_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(_file(tmp_path, "state_svc: {state_batch_sice: 2}"), {})
    assert caught.value.fields["key"] == "state_batch_sice"
    assert "did you mean state_batch_size?" in caught.value.message


@pytest.mark.parametrize("name", ["orchestrator", "exection", "listen", "1", "null"])
def test_an_unknown_section_is_an_error_that_lists_the_known_ones(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(_file(tmp_path, f"state_svc: {{listen: 'f:1'}}\n{name}: {{}}\n"), {})
    assert "they are state_svc, orchestrator_svc, execution" in caught.value.message


def test_an_unknown_key_in_the_environment_is_an_error() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load([], {"STATE_SVC_STATE_BATCH_SICE": "2"})
    assert caught.value.fields["key"] == "state_batch_sice"


@pytest.mark.parametrize(
    "text",
    [
        b"state_svc: {1: 2}",
        b"state_svc: {null: 2}",
        b"state_svc: 3",
        b"state_svc: [",
        b"\xff\xfe\x00no text",
        b"[1, 2]",
        b"a sentence",
        b"0",
        b"state_svc: {listen: 2024-99-99}",
        b"a: " + b"[" * 5_000,
        b"a: !!bool x",
        b"state_svc: {listen: 'a:1'}\nstate_svc: {log_level: DEBUG}",
        b"state_svc: {listen: 'a:1', listen: 'a:2'}",
    ],
)
def test_a_bad_file_is_one_error_that_names_it(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(_file(tmp_path, text), {})
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        load(["--config", str(tmp_path / "none.yaml")], {})


@pytest.mark.parametrize(
    "key, value",
    [
        ("state_batch_size", "0"),
        ("state_batch_size", "many"),
        ("state_batch_timeout_ms", "-1"),
        ("eager_commit", "perhaps"),
        ("log_level", "LOUD"),
        ("drain_seconds", "301"),
        ("drain_seconds", "nan"),
        ("max_watchers", ""),
    ],
)
def test_a_bad_value_is_an_error_with_its_key(key: str, value: str) -> None:
    flag = f"--{key.replace('_', '-')}={value}"
    env_source = {f"STATE_SVC_{key}": value}
    sources: list[tuple[list[str], dict[str, str]]] = [([flag], {}), ([], env_source)]
    for argv, env in sources:
        with pytest.raises(InvalidConfig) as caught:
            load(argv, env)
        assert caught.value.fields["key"] == key


def test_every_setting_has_a_flag_and_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load(["--help"], {})
    shown = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert field.description


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(ValidationError):
        load([], {}).listen = "x"


@pytest.mark.parametrize(
    "preset, expected",
    [
        ("high_throughput", {"state_batch_size": 200, "state_batch_timeout_ms": 500}),
        ("low_latency", {"state_batch_size": 10, "state_batch_timeout_ms": 50}),
        ("constrained", {"compression_threshold_bytes": 512, "enable_state_compression": True}),
        ("debug", {"state_batch_size": 1, "state_batch_timeout_ms": 0}),
    ],
)
def test_a_preset_sets_its_keys_from_each_source(
    preset: str, expected: dict[str, int], tmp_path: Path
) -> None:
    file = _file(tmp_path, f"state_svc: {{preset: {preset}}}")
    for found in (
        load(["--preset", preset], {}),
        load([], {"STATE_SVC_PRESET": preset}),
        load(file, {}),
    ):
        assert {key: getattr(found, key) for key in expected} == expected
        assert found.preset == preset
        assert found.snapshot_bytes == _DEFAULTS.snapshot_bytes


def test_a_key_that_is_set_wins_over_the_preset_wherever_that_comes_from(tmp_path: Path) -> None:
    file = _file(tmp_path, "state_svc: {state_batch_size: 7}")
    found = load([*file, "--preset", "debug"], {"STATE_SVC_EAGER_COMMIT": "false"})
    assert (found.state_batch_size, found.state_batch_timeout_ms) == (7, 0)
    assert not found.eager_commit


def test_an_unknown_preset_is_an_error() -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(["--preset", "fast"], {})
    assert caught.value.fields["key"] == "preset"


def test_the_defaults_of_storing_are_those_of_the_contract_and_of_the_service() -> None:
    assert load([], {}).storing() == Storing()
    contract = {}
    for field in StateSettings.DESCRIPTOR.fields:
        if field.name != "preset":
            rule = field.GetOptions().Extensions[setting_rule]
            contract[field.name] = yaml.safe_load(rule.default_value)
    assert contract == dataclasses.asdict(Storing())
    names = [preset_name(number) for number in StatePreset.values() if number]
    assert names == list(PRESETS)
    for values in PRESETS.values():
        assert set(values) <= set(KEYS)
