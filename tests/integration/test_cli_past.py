"""`ramify diff`, `fork`, `compact`, `delete` and `show --at`, on a real state_svc."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from tests.support.cli import ramify
from tests.support.mutations import READY, RUNNING, create, patch
from tests.support.state_process import StateProcess
from tests.support.wire import connect


@pytest.fixture(scope="module")
def env(shared_state: StateProcess) -> dict[str, str]:
    """Where the commands find the service, which has a run with four revisions."""

    async def make() -> None:
        async with connect(shared_state.address) as wire:
            await wire.create_project("past")
            await wire.commit("past", create("a", state=READY))
            await wire.commit("past", patch("a", state=RUNNING, attempt=1), create("b"))
            await wire.commit("past", patch("a", output_summary="half-way"))

    asyncio.run(make())
    return {**os.environ, "RAMIFY_STATE": shared_state.address}


def test_diff_shows_what_has_changed(env: dict[str, str]) -> None:
    done = ramify("diff", "past", "2", env=env)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "  a  READY → RUNNING  attempt, output_summary, start_time",
        "+ b  PENDING",
    ]
    assert "2 nodes differ" in done.stderr
    lines = ramify("diff", "past", "2", "3", "--json", env=env).stdout.splitlines()
    assert [json.loads(line)["nodeId"] for line in lines] == ["a", "b"]


def test_show_at_a_revision_shows_the_run_as_it_was(env: dict[str, str]) -> None:
    documents = ramify("show", "past", "--at", "2", "--json", env=env).stdout.splitlines()
    project, *nodes = (json.loads(line) for line in documents)
    assert project["project"]["revision"] == "2"
    assert [node["node"]["state"] for node in nodes] == ["NODE_STATE_READY"]
    ahead = ramify("show", "past", "--at", "99", env=env)
    assert ahead.returncode != 0
    assert "no revision 99 yet" in ahead.stderr


def test_fork_compact_and_delete(env: dict[str, str]) -> None:
    fork = ramify("fork", "past", "--at", "2", "--as", "second", env=env)
    assert (fork.returncode, fork.stdout) == (0, "second\n")
    assert "PAUSED" in fork.stderr
    compact = ramify("compact", "second", env=env)
    assert (compact.returncode, compact.stdout) == (0, "1\n")
    refused = ramify("delete", "second", env=env)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    active = ramify("delete", "second", "--yes", env=env)
    assert active.returncode == 8
    gone = ramify("delete", "second", "--yes", "--force", env=env)
    assert gone.returncode == 0
    assert ramify("show", "second", env=env).returncode == 3


def test_pin_holds_a_compaction_and_unpin_lets_it_go(env: dict[str, str]) -> None:
    assert ramify("fork", "past", "--as", "third", env=env).returncode == 0
    pinned = ramify("pin", "third", "audit", env=env)
    assert (pinned.returncode, pinned.stdout) == (0, "1\n")
    held = ramify("compact", "third", env=env)
    assert (held.returncode, held.stdout) == (0, "1\n")
    assert ramify("unpin", "third", "audit", env=env).returncode == 0
    assert ramify("unpin", "third", "audit", env=env).returncode == 3
    assert ramify("compact", "third", env=env).stdout == "3\n"
    assert ramify("pin", "third", "audit", "--at", "1", env=env).returncode == 8
