"""Settings: defaults < file < environment < flags, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator_svc.config import (
    ENV_PREFIX,
    EXECUTION_SECTION,
    SECTION,
    ServiceConfig,
    load_config,
    show_config,
)
from orchestrator_svc.errors import StartupError
from orchestrator_svc.identity import locked_folder, producer_id
from orchestrator_svc.settings import ALL_KEYS, settle
from tests.unit.orchestrator_svc.test_settings import other_value

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STATE = ["--state", "127.0.0.1:7420"]


def write(path: Path, text: str) -> list[str]:
    """Write a config file; return the flag that names it."""
    path.write_text(text)
    return ["--config", str(path)]


def test_later_sources_win(tmp_path: Path) -> None:
    flags = write(
        tmp_path / "ramify.yaml",
        f"{SECTION}: {{listen: 'h:1', log_level: DEBUG, name: file}}\n"
        f"{EXECUTION_SECTION}: {{max_retries: 1, max_recursion_depth: 2}}\n"
        "state_svc: {anything: goes}\n",
    )
    env = {f"{ENV_PREFIX}LISTEN": "h:2", f"{ENV_PREFIX}MAX_RETRIES": "7", "OTHER": "x"}
    config = load_config([*STATE, *flags, "--name", "flag"], env)
    assert (config.listen, config.name, config.log_level) == ("h:2", "flag", "DEBUG")
    assert config.execution == {"max_retries": 7, "max_recursion_depth": 2}


def test_execution_keys_are_flags_too() -> None:
    config = load_config([*STATE, "--max-concurrent-nodes", "3", "--skip-atomization", "yes"], {})
    assert config.execution == {"max_concurrent_nodes": 3, "skip_atomization": True}


@pytest.mark.parametrize("name", ALL_KEYS)
def test_every_execution_key_is_a_file_key_a_variable_and_a_flag(tmp_path: Path, name: str) -> None:
    value = other_value(name)
    text = str(value).lower()
    flag, variable = "--" + name.replace("_", "-"), ENV_PREFIX + name.upper()
    sources = [
        load_config([*STATE, *write(tmp_path / "c.yaml", f"execution: {{{name}: {text}}}")], {}),
        load_config(STATE, {variable: text}),
        load_config([*STATE, flag, text], {}),
    ]
    assert [config.execution for config in sources] == [{name: value}] * 3
    assert f"{name}: {text}" in show_config(sources[0])


def test_a_file_may_group_the_thresholds_of_silence(tmp_path: Path) -> None:
    text = "execution: {timeout_strategy: {warning: 1, soft: 2, hard: 3, max_recovery_attempts: 0}}"
    config = load_config([*STATE, *write(tmp_path / "ramify.yaml", text)], {})
    assert config.execution == {
        "timeout_warning_seconds": 1.0,
        "timeout_soft_seconds": 2.0,
        "timeout_hard_seconds": 3.0,
        "max_recovery_attempts": 0,
    }


def test_the_high_load_example_loads_as_written() -> None:
    """It is the preset of the requirements, key by key."""
    config = load_config([*STATE, "--config", str(EXAMPLES / "high-load.yaml")], {})
    assert config.execution == {
        "max_concurrent_nodes": 15,
        "max_parallel_nodes": 12,
        "optimization_level": "aggressive",
        "execution_strategy": "realtime",
        "broadcast_mode": "batch",
        "enable_update_coalescing": True,
        "update_coalescing_window_ms": 30,
        "state_batch_size": 100,
        "state_batch_timeout_ms": 50,
        "enable_state_compression": True,
        "rate_limit_rpm": 50,
        "max_execution_steps": 1_000,
    }
    settings = settle(config.execution)
    assert settings.knowledge_store_batch_size == 50, "what the level sets and nobody chose"


@pytest.mark.parametrize(
    "text, problem",
    [
        (f"{SECTION}: {{colour: red}}", "colour"),
        (f"{EXECUTION_SECTION}: {{max_retry: 1}}", "execution.max_retry"),
        (f"{SECTION}: {{max_retries: 1}}", "belongs to the section execution"),
        (f"{EXECUTION_SECTION}: {{max_retries: 101}}", "max_retries"),
        ("execution: {timeout_strategy: {cold: 1}}", "timeout_strategy.cold"),
        ("execution: {timeout_strategy: 60}", "not a mapping"),
        ("execution: {timeout_strategy: {soft: 9}, timeout_soft_seconds: 9}", "twice"),
        ("execution: {timeout_strategy: {hard: 180}}", "more than timeout_soft_seconds"),
        (f"{SECTION}: [1]", "not a mapping"),
        (f'{SECTION}: {{data: "a\\0b"}}', "data: .*zero byte"),
        (f'{SECTION}: {{profiles: "a\\0b"}}', "profiles: .*zero byte"),
        ("a", "holds no sections"),
        ("orchestrator: {}", "orchestrator is not a section; they are state_svc, orchestrator_svc"),
        ("exection: {max_retries: 1}", "exection is not a section"),
        ("state: 127.0.0.1:7420", "state is not a section"),
        ("{", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_with_the_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(StartupError, match=problem):
        load_config([*STATE, *write(tmp_path / "c.yaml", text)], {})


@pytest.mark.parametrize(
    "text, problem",
    [
        (b"orchestrator_svc:\n  name: caf\xe9\n", "can't decode"),
        (b"orchestrator_svc:\n  name: 2024-99-99\n", "month must be"),
        (b"a: " + b"[" * 5_000, "recursion"),
        (b"a: !!bool x", "cannot be read"),
        (b"execution: {max_retries: 1}\nb: 1\nexecution: {}\n", "line 3: execution is there twice"),
        (b"orchestrator_svc:\n  listen: h:1\n  listen: h:2\n", "line 3: listen is there twice"),
        (b"a: [&x {b: 1, b: 2}, *x]\n", "line 1: b is there twice"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_with_its_name(
    tmp_path: Path, text: bytes, problem: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text)
    with pytest.raises(StartupError, match=problem) as refused:
        load_config([*STATE, "--config", str(path)], {})
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_aliases_and_merged_keys_repeat_no_key(tmp_path: Path) -> None:
    text = (
        "x-base: &base {max_retries: 1, max_recursion_depth: 2}\n"
        "x-more: &more {<<: *base, max_retries: 3}\n"
        "x-circle: &circle [*circle]\n"
        "state_svc: {no_matter: what}\n"
        "execution: {<<: *more, max_recursion_depth: 4}\n"
    )
    config = load_config([*STATE, *write(tmp_path / "c.yaml", text)], {})
    assert config.execution == {"max_retries": 3, "max_recursion_depth": 4}


@pytest.mark.parametrize(
    "argv, env, problem",
    [
        ([], {}, "state is needed"),
        ([*STATE, "--listen", "nowhere"], {}, "listen"),
        ([*STATE, "--lease-ttl-seconds", "0"], {}, "lease_ttl_seconds"),
        (STATE, {f"{ENV_PREFIX}COLOUR": "red"}, "colour"),
        ([*STATE, "--config", "no-such-file"], {}, "no-such-file"),
    ],
)
def test_a_bad_flag_or_variable_is_refused_with_the_key(
    argv: list[str], env: dict[str, str], problem: str
) -> None:
    with pytest.raises(StartupError, match=problem):
        load_config(argv, env)


def test_every_key_says_what_it_is() -> None:
    assert all(field.description for field in ServiceConfig.model_fields.values())


def test_what_check_config_prints_is_a_file_that_gives_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*STATE, "--max-retries", "7", "--listen", "h:1"]
    with pytest.raises(SystemExit) as ended:
        load_config([*flags, "--check-config"], {})
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "max_retries: 7" in shown
    config = load_config(write(tmp_path / "shown.yaml", shown), {})
    assert config.listen == "h:1"
    assert settle(config.execution) == settle({"max_retries": 7})


@pytest.mark.parametrize(
    "text, said",
    [
        ("executor: nobody", r"words\.yaml: executor: 'nobody' is neither one of corpus, scripted"),
        ("executor: scripted\ncolor: red", r"words\.yaml: color: Extra inputs"),
        ("executor: 'absent_module:X'", r"words\.yaml: executor: absent_module:X: ModuleNotFound"),
    ],
)
def test_check_config_reads_the_profiles_as_a_start_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "words.yaml"
    agents = "atomizer: scripted\nplanner: scripted\naggregator: scripted\n"
    path.write_text(agents + text)
    argv = [*STATE, "--profiles", str(tmp_path), "--check-config"]
    with pytest.raises(StartupError, match=rf"^config: profiles: .*{said}"):
        load_config(argv, {})
    assert capsys.readouterr().out == ""
    path.write_text(agents + "executor: scripted")
    with pytest.raises(SystemExit):
        load_config([*argv, "--default-profile", "words"], {})
    assert "default_profile: words" in capsys.readouterr().out


def test_check_config_refuses_a_default_profile_that_is_not_there() -> None:
    with pytest.raises(StartupError, match="default_profile: there is no 'words', choose of: cor"):
        load_config([*STATE, "--default-profile", "words", "--check-config"], {})


def test_a_data_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "data"):
        with pytest.raises(StartupError, match="stop it, or choose another with --data"):
            locked_folder(tmp_path / "data").__enter__()
        with locked_folder(tmp_path / "other"):
            pass
    with locked_folder(tmp_path / "data"):
        pass


def test_a_name_is_kept_so_that_a_restart_is_the_same_producer(tmp_path: Path) -> None:
    for name in ("data", "other"):
        (tmp_path / name).mkdir()
    first = producer_id(tmp_path / "data", None)
    assert first.startswith("orchestrator/")
    assert producer_id(tmp_path / "data", None) == first
    assert producer_id(tmp_path / "other", None) != first
    assert producer_id(tmp_path / "data", "given") == "orchestrator/given"


def test_a_data_folder_that_cannot_be_used_is_an_error_for_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="--data"), locked_folder(tmp_path / "file"):
        pytest.fail("it was used")
    (tmp_path / "name").write_text("not a name!")
    with pytest.raises(StartupError, match="does not hold a name"):
        producer_id(tmp_path, None)


@pytest.mark.parametrize(
    "allow, listen, state, allowed",
    [
        ("loopback", "127.0.0.1:1", "localhost:2", True),
        ("loopback", "[::1]:1", "127.8.8.8:2", True),
        ("loopback", "0.0.0.0:1", "127.0.0.1:2", False),
        ("loopback", "127.0.0.1:1", "state.example:2", False),
        ("always", "0.0.0.0:1", "state.example:2", True),
        ("never", "127.0.0.1:1", "127.0.0.1:2", False),
    ],
)
def test_plans_run_only_where_they_are_allowed(
    allow: str, listen: str, state: str, allowed: bool
) -> None:
    argv = ["--state", state, "--listen", listen, "--allow-plans", allow]
    refused = load_config(argv, {}).plans_refused()
    assert (refused == "") is allowed
