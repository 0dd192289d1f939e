"""A data directory of an older format is upgraded when it is opened, and nothing is lost.

`format_1.sql` and `format_2.sql` are what older ones left: a project with its whole history, one
is compacted and leased, a fork and a deleted one; from format 2 on also `body`, compacted, with
a body that its log names and one that its archive of stage records names.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from ramify.v1.state_service_pb2 import GetServerInfoRequest, ListStagesRequest
from state_svc.codec.payload import digest_of
from state_svc.store.sqlite import FILE_NAME
from state_svc.store.sqlite_schema import FORMAT_VERSION
from tests.support.mutations import READY, RUNNING, batch, create, order_cancel, patch
from tests.support.payloads import get, put
from tests.support.state_process import StateProcess, run_to_end
from tests.support.wire import connect, refusal

Start = Callable[..., StateProcess]
_KEPT, _ARCHIVED = b"a kept body " * 500, b"an archived body " * 400


@pytest.fixture(params=[1, 2])
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A data directory of an older format."""
    old = Path(__file__).with_name(f"format_{request.param}.sql")
    folder = tmp_path / "data"
    folder.mkdir()
    database = apsw.Connection(str(folder / FILE_NAME))
    database.execute(old.read_text("utf-8"))
    # Answers are kept for a day, and the file is older than that.
    database.execute("UPDATE requests SET micros = ?", (time.time_ns() // 1_000,))
    assert database.pragma("user_version") == request.param
    database.close()
    return folder


def _format(folder: Path) -> int:
    database = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return int(database.pragma("user_version"))
    finally:
        database.close()


def change(folder: Path, statement: str) -> None:
    """Change the schema behind the back of the service."""
    database = apsw.Connection(str(folder / FILE_NAME))
    database.execute(statement)
    database.close()


async def test_an_older_store_is_upgraded_and_all_of_it_is_there(
    data: Path, start_state: Start
) -> None:
    bodies = _format(data) > 1
    state = start_state()
    assert state.data == data
    async with connect(state.address) as wire:
        await wire.stub.GetServerInfo(GetServerInfoRequest())
        projects = {p.project_id: p.revision for p in await wire.projects()}
        assert projects == {"whole": 5, "cut": 9, "fork": 1} | ({"body": 5} if bodies else {})
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
        if bodies:
            for body in (_KEPT, _ARCHIVED):
                assert (await get(wire, "body", digest_of(body)))[1] == body
            page = await wire.stub.ListStages(ListStagesRequest(project_id="body"))
            assert [record.stage_id for record in page.stages] == ["s1", "s2", "s3"]
        new = await put(wire, b"a body " * 1_000)
        await wire.commit("fork", patch("leaf", result={"ref": new}))
    state.kill()
    assert _format(data) == FORMAT_VERSION > 2
    checked = run_to_end("check", str(data))
    assert checked.returncode == 0, checked.stdout


async def test_an_upgrade_that_is_cut_off_begins_again(data: Path, start_state: Start) -> None:
    """It is one transaction: whoever dies in it leaves the old format."""
    before = _format(data)
    change(data, "ALTER TABLE projects ADD COLUMN row_checksum INTEGER")
    failed = run_to_end("--data", str(data), "--listen", "127.0.0.1:0")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert _format(data) == before
    change(data, "ALTER TABLE projects DROP COLUMN row_checksum")
    async with connect(start_state().address) as wire:
        assert (await wire.project("whole")).revision == 5
