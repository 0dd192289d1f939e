"""Pages go on where the one before has ended, whatever was deleted meanwhile."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import apsw
import pytest
from google.protobuf.struct_pb2 import Value

from ramify.v1.node_pb2 import Node, NodeError
from ramify.v1.payload_pb2 import Payload
from ramify.v1.state_service_pb2 import (
    DeleteProjectRequest,
    DiffProjectRequest,
    DiffProjectResponse,
    ListNodeHistoryRequest,
    ListNodesRequest,
    ListProjectsRequest,
    ListReviewsRequest,
    ListStagesRequest,
    NodeDiff,
)
from state_svc.codec.segment import SegmentRecord, decode_segment
from state_svc.errors import CorruptRecord, InvalidRequest
from state_svc.model import limits
from state_svc.model.validate import NODE_FIELDS, first_problem
from state_svc.rpc import nodes, stages
from state_svc.rpc.convert import MAX_PAGE_BYTES
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.nodes import NodeRpcs
from state_svc.rpc.reviews import ReviewRpcs
from state_svc.rpc.stages import StageRpcs
from state_svc.storage.v1.segment_pb2 import Segment
from state_svc.store.memory import MemoryStore
from state_svc.store.sqlite import FILE_NAME
from tests.support.embedded import Embedded, embedded
from tests.support.mutations import create, open_review, patch, stage


async def _delete(running: Embedded, project_id: str) -> None:
    request = DeleteProjectRequest(project_id=project_id, force=True)
    await HistoryRpcs(running.service).delete_project(request)


async def test_a_listing_goes_on_although_the_project_that_its_page_ended_with_is_deleted() -> None:
    async with embedded(MemoryStore()) as running:
        for name in "abcd":
            await running.create(name)
        request = ListProjectsRequest(page_size=2)
        page = await running.projects.list_projects(request)
        assert [project.project_id for project in page.projects] == ["a", "b"]
        await _delete(running, "b")
        request.page_token = page.next_page_token
        page = await running.projects.list_projects(request)
        assert [project.project_id for project in page.projects] == ["c", "d"]
        assert not page.next_page_token


async def test_a_listing_of_reviews_goes_on_although_its_project_is_deleted() -> None:
    async with embedded(MemoryStore()) as running:
        for name in "abc":
            await running.create(name)
            await running.commit(name, create("n"))
            await running.commit(name, open_review("first", "n"), open_review("second", "n"))
        reviews, request = ReviewRpcs(running.service), ListReviewsRequest(page_size=3)
        page = await reviews.list_reviews(request)
        assert [item.project_id for item in page.reviews] == ["a", "a", "b"]
        await _delete(running, "b")
        request.page_token = page.next_page_token
        page = await reviews.list_reviews(request)
        assert [item.project_id for item in page.reviews] == ["c", "c"]


async def _fill(running: Embedded) -> None:
    """Make `p`: of its 42 revisions, 2, 12, 22 … change `seldom`, the others `often`."""
    await running.create("p")
    await running.commit("p", create("seldom"), create("often"))
    for revision in range(3, 43):
        node_id = "seldom" if revision % 10 == 2 else "often"
        changes = patch(node_id, output_summary=f"at {revision}"), stage(node_id, f"s{revision}")
        assert await running.commit("p", *changes) == revision


async def test_a_page_of_a_history_ends_when_enough_was_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What follows the tokens, over empty pages too, gets all of it once."""
    for module in (nodes, stages):
        monkeypatch.setattr(module, "_READ_BYTES", 1)
        monkeypatch.setattr(module, "_SEARCH_BYTES", 500)
    async with embedded(MemoryStore()) as running:
        await _fill(running)
        for size in (1, 100):
            request = ListNodeHistoryRequest(project_id="p", node_id="seldom", page_size=size)
            pages = [await NodeRpcs(running.service).list_node_history(request)]
            while pages[-1].next_page_token:
                request.page_token = pages[-1].next_page_token
                pages.append(await NodeRpcs(running.service).list_node_history(request))
            found = [[entry.revision.revision for entry in page.entries] for page in pages]
            assert list(chain(*found)) == [2, 12, 22, 32, 42]
            assert found.count([]) > 3, "a page does not search for ever"
            listing = ListStagesRequest(project_id="p", node_id="seldom", page_size=size)
            listed = [await StageRpcs(running.service).list_stages(listing)]
            while listed[-1].next_page_token:
                listing.page_token = listed[-1].next_page_token
                listed.append(await StageRpcs(running.service).list_stages(listing))
            ids = [[record.stage_id for record in page.stages] for page in listed]
            assert list(chain(*ids)) == ["s12", "s22", "s32", "s42"]
            assert ids.count([]) > 3


async def test_a_page_of_a_history_inflates_no_more_than_it_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stored, the changes are so small that one read finds hundreds of pages of them."""
    inflated = 0

    def counted(record: SegmentRecord) -> Segment:
        nonlocal inflated
        segment = decode_segment(record)
        inflated += len(segment.delta)
        return segment

    monkeypatch.setattr(nodes, "decode_segment", counted)
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        await running.commit("p", create("n"))
        for number in range(20):
            await running.commit("p", patch("n", result=Payload(text=f"{number}" + "x" * 900_000)))
        request = ListNodeHistoryRequest(project_id="p", node_id="n", page_size=1_000)
        found: list[int] = []
        pages = 0
        while request.page_token or not pages:
            inflated = 0
            page = await NodeRpcs(running.service).list_node_history(request)
            assert page.ByteSize() <= MAX_PAGE_BYTES
            assert inflated < 2 * MAX_PAGE_BYTES
            found += (entry.revision.revision for entry in page.entries)
            request.page_token = page.next_page_token
            pages += 1
        assert found == [*range(2, 23)]


async def test_a_page_of_differences_ends_before_the_node_that_would_exceed_it() -> None:
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        await running.commit("p", create("x"), create("y"), create("z"))
        before = await running.commit(
            "p", *(patch(n, result=Payload(text="1" * 900_000)) for n in "xyz")
        )
        await running.commit("p", *(patch(n, result=Payload(text="2" * 900_000)) for n in "xyz"))
        request = DiffProjectRequest(project_id="p", from_revision=before)
        found: list[list[str]] = []
        while request.page_token or not found:
            page = await HistoryRpcs(running.service).diff_project(request)
            assert page.ByteSize() <= MAX_PAGE_BYTES
            found.append([diff.node_id for diff in page.nodes])
            request.page_token = page.next_page_token
        assert found == [["x"], ["y"], ["z"]]


def test_the_largest_difference_of_one_node_fits_in_what_any_client_takes() -> None:
    """A page holds at least one, and a client takes 4 MiB unless it says otherwise."""
    wide, name, text = "\U0001f600", "n" * limits.MAX_NAME_CHARS, limits.MAX_TEXT_CHARS
    bounds = limits.Limits()
    ids = [f"{n:0{limits.MAX_ID_CHARS}}" for n in range(bounds.max_batch_mutations)]
    node = Node(
        node_id=ids[0],
        parent_node_id=ids[1],
        goal=wide * bounds.max_goal_chars,
        overall_objective=wide * bounds.max_goal_chars,
        depends_on=ids[: limits.MAX_DEPENDENCIES],
        planned_sub_task_ids=ids,
        agent_name=name,
        waiting_on=wide * limits.MAX_NAME_CHARS,
        output_summary=wide * text,
        replan_reason=wide * text,
        sub_graph_id=wide * limits.MAX_REQUEST_ID_CHARS,
        error=NodeError(message=wide * text),
        result=Payload(text="x" * (bounds.max_payload_bytes - 5)),
        aux_data={"k": Value(string_value="x" * (limits.MAX_MAP_BYTES - 20))},
    )
    names = [field.name for field in Node.DESCRIPTOR.fields]
    assert first_problem(node, NODE_FIELDS) is None
    diff = NodeDiff(node_id=ids[0], before=node, after=node, changed_fields=names)
    assert DiffProjectResponse(nodes=[diff]).ByteSize() < (4 << 20) - 100_000


async def test_a_history_whose_end_is_missing_is_damage(tmp_path: Path) -> None:
    async with embedded(tmp_path) as running:
        await _fill(running)
        with apsw.Connection(str(tmp_path / FILE_NAME)) as database:
            database.execute("DELETE FROM segments WHERE last_revision > 40")
        database.close()
        request = ListNodeHistoryRequest(project_id="p", node_id="seldom")
        with pytest.raises(CorruptRecord):
            await NodeRpcs(running.service).list_node_history(request)


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 20])
async def test_a_token_with_a_huge_number_is_refused(number: str) -> None:
    async with embedded(MemoryStore()) as running:
        await running.create("p")
        await running.commit("p", create("n"), create("m"))
        nodes_of, token = NodeRpcs(running.service), f"2.{number}"
        page = await nodes_of.list_nodes(ListNodesRequest(project_id="p", page_size=1))
        name = page.next_page_token.partition(".")[0]
        for call in (
            nodes_of.list_nodes(
                ListNodesRequest(project_id="p", page_size=1, page_token=f"{name}.{number}")
            ),
            nodes_of.list_node_history(
                ListNodeHistoryRequest(project_id="p", node_id="n", page_token=token)
            ),
            HistoryRpcs(running.service).diff_project(
                DiffProjectRequest(project_id="p", from_revision=1, page_token=token)
            ),
            StageRpcs(running.service).list_stages(
                ListStagesRequest(project_id="p", page_token=token)
            ),
        ):
            with pytest.raises(InvalidRequest):
                await call
