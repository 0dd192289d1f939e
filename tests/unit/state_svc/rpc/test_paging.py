"""Pages go on where the one before has ended, whatever was deleted meanwhile."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import apsw
import pytest

from ramify.v1.state_service_pb2 import (
    DeleteProjectRequest,
    DiffProjectRequest,
    ListNodeHistoryRequest,
    ListNodesRequest,
    ListProjectsRequest,
    ListReviewsRequest,
    ListStagesRequest,
)
from state_svc.errors import CorruptRecord, InvalidRequest
from state_svc.rpc import nodes, stages
from state_svc.rpc.history import HistoryRpcs
from state_svc.rpc.nodes import NodeRpcs
from state_svc.rpc.reviews import ReviewRpcs
from state_svc.rpc.stages import StageRpcs
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
