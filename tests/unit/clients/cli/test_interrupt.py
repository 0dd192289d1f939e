"""Ctrl-C while a command waits for a service, or is only just loading: one word, exit code 130."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pexpect
import pytest

from tests.support.cli import COMMAND_SECONDS, on_terminal

INTERRUPTED_WHILE_LOADING = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "ramify.cli.show":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from ramify.cli.start import main
main()
"""


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(COMMAND_SECONDS)
        yield listening


@pytest.mark.parametrize(
    "arguments", [["ls"], ["cancel", "p"], ["review"], ["backup", "never.ramify"]], ids=" ".join
)
def test_ctrl_c_while_a_service_says_nothing_is_one_word(
    silent: socket.socket, arguments: list[str]
) -> None:
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    env = {**os.environ, "RAMIFY_STATE": address, "RAMIFY_ORCHESTRATOR": address}
    terminal = on_terminal(*arguments, env=env)
    connection, _ = silent.accept()
    with connection:
        terminal.sendintr()
        terminal.expect("interrupted\r\n")
        assert "Traceback" not in str(terminal.before)
        terminal.expect(pexpect.EOF)
    terminal.close()
    assert (terminal.before, terminal.exitstatus) == ("", 130)


def test_ctrl_c_while_modules_are_loaded_is_one_word() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_LOADING, "ls"],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
