"""`ramify up` starts both services, stops them in order, and hides no failure."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Up, on_terminal, ramify, services_of


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_up_serves_until_it_is_asked_to_stop_and_drains(
    tmp_path: Path, number: signal.Signals
) -> None:
    up = Up(tmp_path / "data")
    assert [line["service"] for line in up.ready] == ["state_svc", "orchestrator_svc"]
    assert ramify("stats", env=up.env).returncode == 0
    assert up.stop(number) == (0, "")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "logs",
        "orchestrator",
        "state",
    ]
    for name in ("state_svc", "orchestrator_svc"):
        assert "drained" in (tmp_path / "data" / "logs" / f"{name}.log").read_text()


def test_a_closed_terminal_leaves_nothing_running(tmp_path: Path) -> None:
    listen = ["--state-listen", "127.0.0.1:0", "--orchestrator-listen", "127.0.0.1:0"]
    # `Any`, because the types of pexpect hide the terminal itself.
    up: Any = on_terminal("up", "--data", str(tmp_path), *listen, env=dict(os.environ))
    up.expect("Ctrl-C stops both")
    children = services_of(up.pid)
    assert len(children) == 2
    up.ptyproc.fileobj.close()  # `up.close` would send signals of its own
    up.ptyproc.wait()
    up.closed = True
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())
    assert "drained" in (tmp_path / "logs" / "state_svc.log").read_text()


def test_a_second_signal_ends_a_drain_that_takes_too_long(tmp_path: Path) -> None:
    up = Up(tmp_path)
    children = up.children()
    os.kill(children["orchestrator_svc"], signal.SIGSTOP)  # it cannot drain
    up.process.send_signal(signal.SIGTERM)
    while up.process.poll() is None:
        up.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            up.process.wait(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())
    up.wait()


@pytest.mark.parametrize("victim", ["state_svc", "orchestrator_svc"])
def test_a_service_that_dies_is_reported_and_the_other_is_stopped(
    tmp_path: Path, victim: str
) -> None:
    up = Up(tmp_path)
    children = up.children()
    os.kill(children[victim], signal.SIGKILL)
    code, errors = up.wait()
    assert code == 9
    assert errors.startswith(f"error: {victim} ended by itself (killed by SIGKILL); its log is ")
    assert errors.endswith("; start both again, every run goes on\n")
    assert errors.count("\n") == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in children.values())


def test_a_port_in_use_is_one_line_and_nothing_is_left_running(tmp_path: Path) -> None:
    first = Up(tmp_path / "first")
    address = first.ready[0]["address"]
    again = ramify(
        *("up", "--data", str(tmp_path / "second"), "--state-listen", address),
        *("--orchestrator-listen", "127.0.0.1:0"),
        env=first.env,
    )
    assert again.returncode == 9
    error = again.stderr.splitlines()[-1]
    assert error.startswith("error: state_svc did not start")
    assert "state_svc.log" in error
    assert "choose another with --state-listen: " in error
    assert first.stop() == (0, "")


def test_a_data_folder_in_use_is_one_line(tmp_path: Path) -> None:
    first = Up(tmp_path)
    again = ramify(
        *("up", "--data", str(tmp_path), "--json", "--state-listen", "127.0.0.1:0"), env=first.env
    )
    assert again.returncode == 9
    assert again.stderr.startswith("error: state_svc did not start")
    assert again.stderr.count("\n") == 1
    assert first.stop() == (0, "")


def test_a_config_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "ramify.yaml"
    config.write_text("state_svc:\n  speed: 11\n")
    done = ramify("up", "--data", str(tmp_path / "data"), "--config", str(config), env={})
    assert done.returncode == 9
    assert "speed" in done.stderr.splitlines()[-1]
