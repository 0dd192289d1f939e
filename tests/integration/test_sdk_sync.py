"""The blocking client on a real state_svc: history, files and bodies, from a script's thread."""

from __future__ import annotations

import asyncio

import pytest

from ramify import RamifyClient
from ramify.errors import ProjectNotFoundError, RevisionAheadError
from tests.support.mutations import READY, RUNNING, create, patch
from tests.support.state_process import StateProcess


def script(address: str) -> None:
    """Write a project, look into its past, and take it away."""
    with RamifyClient(address) as client:
        client.create_project("to be looked at", project_id="p")
        client.commit_batch("p", [create("a", state=READY)])
        client.commit_batch("p", [patch("a", state=RUNNING, attempt=1), create("b")])
        assert client.flush_project("p") == 3
        assert client.get_project("p", at_revision=2).revision == 2
        assert [node.node_id for node in client.list_nodes("p", at_revision=2)] == ["a"]
        with pytest.raises(RevisionAheadError):
            client.get_project("p", at_revision=9)
        assert [diff.node_id for diff in client.diff_project("p", 2)] == ["a", "b"]

        assert client.pin_revision("p", "keep", revision=2) == 2
        assert client.compact_project("p") < 3, "what is pinned stays"
        assert client.unpin_revision("p", "keep")
        assert not client.unpin_revision("p", "keep")

        fork = client.fork_project("p", at_revision=2, new_project_id="f")
        assert (fork.project_id, fork.revision) == ("f", 1)
        exported = b"".join(part.data for part in client.export_project("p"))
        imported = client.import_project([exported], project_id="i")
        assert (imported.project_id, imported.goal) == ("i", "to be looked at")
        assert sum(len(part.data) for part in client.backup()) > len(exported)

        payload = client.put_payload("a body " * 1_000, content_type="text/plain")
        client.commit_batch("i", [patch("b", result=payload)])
        assert client.get_node("i", "b").result.text == "a body " * 1_000
        assert client.get_payload("i", payload.ref.digest).startswith(b"a body ")

        client.delete_project("f", force=True)
        with pytest.raises(ProjectNotFoundError):
            client.get_project("f")
        parts = client.backup()
        next(parts)  # and no more: closing the client ends the call


async def test_a_script_works_with_the_past_and_with_files(state: StateProcess) -> None:
    await asyncio.to_thread(script, state.address)
