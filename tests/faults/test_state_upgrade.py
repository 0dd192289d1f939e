"""A data directory of an older format is upgraded when it is opened, and nothing is lost.

`format_1.sql` is what an older ramify left: a project with its whole history, one that is compacted
and leased, a fork and a deleted one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from ramify.v1.state_service_pb2 import GetServerInfoRequest, PutPayloadRequest
from state_svc.store.sqlite import FILE_NAME
from state_svc.store.sqlite_schema import FORMAT_VERSION
from tests.support.bound import WAIT_SECONDS
from tests.support.mutations import READY, RUNNING, batch, create, order_cancel, patch
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import connect, refusal

Start = Callable[..., StateProcess]
_OLD = Path(__file__).with_name("format_1.sql")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory of format 1."""
    folder = tmp_path / "data"
    folder.mkdir()
    database = apsw.Connection(str(folder / FILE_NAME))
    database.execute(_OLD.read_text("utf-8"))
    # Answers are kept for a day, and the file is older than that.
    database.execute("UPDATE requests SET micros = ?", (time.time_ns() // 1_000,))
    assert database.pragma("user_version") == 1
    database.close()
    return folder


def _format(folder: Path) -> int:
    database = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return int(database.pragma("user_version"))
    finally:
        database.close()


async def test_an_older_store_is_upgraded_and_all_of_it_is_there(
    data: Path, start_state: Start
) -> None:
    state = start_state()
    assert state.data == data
    async with connect(state.address) as wire:
        await wire.stub.GetServerInfo(GetServerInfoRequest())
        projects = {p.project_id: p.revision for p in await wire.projects()}
        assert projects == {"whole": 5, "cut": 9, "fork": 1}
        assert (await refusal(wire.create_project("gone"))).reason == "PROJECT_EXISTS"
        # The history of old records: time travel and watches from the beginning.
        assert [n.node_id for n in await wire.nodes("whole", at_revision=2)] == ["root"]
        assert (await wire.node("whole", "root")).output_summary == "half-way"
        assert (await wire.node("whole", "leaf")).goal == ("a leaf " * 100)
        async with wire.watch("whole", from_beginning=True) as watch:
            await watch.through(5)
        cut = await wire.project("cut")
        assert (cut.compacted_revision, cut.lease.holder) == (7, "someone")
        assert {n.node_id: n.state for n in await wire.nodes("cut")}["n0"] == READY
        # Positions of producers and answers to requests.
        async with wire.producer("writer", 3) as producer:
            change = patch("root", state=RUNNING, attempt=1), create("leaf", "root")
            await producer.send(batch("whole", 2, *change))
            assert await producer.acked("whole", 2) == 3, "a repeat has its first revision"
            await producer.send(batch("whole", 4, create("new", "root")))
            assert await producer.acked("whole", 4) == 6
        assert await wire.commit("whole", order_cancel("stop"), request_id="once") == 5
        # What only the present format has.
        put = wire.stub.PutPayload(timeout=WAIT_SECONDS)
        await put.write(PutPayloadRequest(data=b"a body " * 1_000))
        await put.done_writing()
        body = (await put).payload
        await wire.commit("fork", patch("leaf", result={"ref": body}))
    state.kill()
    assert _format(data) == FORMAT_VERSION > 1
    checked = run_to_end("check", str(data))
    assert checked.returncode == 0, checked.stdout


async def test_an_upgrade_that_is_cut_off_begins_again(data: Path, start_state: Start) -> None:
    """It is one transaction: whoever dies in it leaves the old format."""
    database = apsw.Connection(str(data / FILE_NAME))
    database.execute("CREATE TABLE payloads (in_the_way)")
    database.close()
    failed = run_to_end("--data", str(data), "--listen", "127.0.0.1:0")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert _format(data) == 1
    database = apsw.Connection(str(data / FILE_NAME))
    database.execute("DROP TABLE payloads")
    database.close()
    async with connect(start_state().address) as wire:
        assert (await wire.project("whole")).revision == 5
