"""Both services from the command line, by reflection, with exactly the lines of docs/recipes.md."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from ramify.v1 import orchestrator_service_pb2, state_service_pb2
from tests.support.orchestrator_process import OrchestratorProcess
from tests.support.recipes import Answer, Recipe, read_recipes, run
from tests.support.state_process import StateProcess

Answers = dict[str, list[Answer]]


@pytest.fixture(scope="module")
def answers(
    shared_state: StateProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answers]:
    """Every block of the page, run in order; answers by section.

    The orchestrator starts where the page first needs it: it would take up what is made by hand.
    """
    folder: Path = tmp_path_factory.mktemp("orchestrator") / "data"
    orchestrator = OrchestratorProcess(folder, shared_state.address, witnessed=False)
    found: Answers = {}
    try:
        for recipe in read_recipes():
            if "orchestrator" in recipe.marks and not orchestrator.running:
                orchestrator.start()
            answer = run(
                recipe,
                until='"bookmark"' if "watch" in recipe.marks else "",
                STATE=shared_state.address,
                ORCHESTRATOR=orchestrator.address,
            )
            if not recipe.marks & {"fails", "watch"}:
                assert answer.code == 0, f"{recipe.text}\n{answer.errors}"
            found.setdefault(recipe.section, []).append(answer)
        yield found
    finally:
        orchestrator.kill()


def methods(service: str, names: list[str]) -> set[str]:
    """Return methods as `buf curl` lists them."""
    return {f"{service}/{name}" for name in names}


def test_services_and_methods_are_listed_by_both_reflections(answers: Answers) -> None:
    services, listed, by_alpha, _ = answers["What is there"]
    expected = {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "ramify.v1.StateService",
    }
    assert set(services.output.split()) == set(by_alpha.output.split()) == expected
    descriptor = state_service_pb2.DESCRIPTOR.services_by_name["StateService"]
    every = methods(descriptor.full_name, [method.name for method in descriptor.methods])
    assert every <= set(listed.output.split())
    reflection = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    assert reflection in listed.output.split()


def test_a_unary_call_prints_every_field(answers: Answers) -> None:
    (document,) = answers["What is there"][3].documents
    assert document["limits"]["maxBatchMutations"] == 5_000
    assert document["storeId"]


def test_a_project_is_created_and_written_by_hand(answers: Answers) -> None:
    created, committed, streamed = answers["A project by hand"]
    (project,) = created.documents
    assert project["project"]["projectId"] == "by-hand"
    (revision,) = committed.documents
    assert revision["revision"] == "2"
    assert revision["projectUid"] == project["project"]["projectUid"]
    welcome, *acks = streamed.documents
    assert welcome["welcome"]["producerId"]
    runs = [ack for document in acks for ack in document["acks"]["acks"]]
    assert runs[0]["firstRevision"] == "3"
    assert runs[-1]["revision"] == "4"


def test_nodes_are_listed_and_watched(answers: Answers) -> None:
    listed, watched, filtered = answers["Look at it"]
    (page,) = listed.documents
    assert [node["state"] for node in page["nodes"]] == ["NODE_STATE_DONE"]
    created, *told = watched.documents
    assert created["created"]["headRevision"] == "4"
    deltas = [document["delta"] for document in told if "delta" in document]
    assert deltas[0]["firstRevision"] == "1"
    assert told[-1]["resumeRevision"] == "4"
    assert "bookmark" in told[-1]
    _, snapshot, *_ = filtered.documents
    assert [node["nodeId"] for node in snapshot["snapshot"]["nodes"]] == ["root"]


def test_a_refusal_shows_its_reason(answers: Answers) -> None:
    (answer,) = answers["When it is refused"]
    assert answer.code != 0
    status = json.loads(answer.errors)
    assert status["code"] == "not_found"
    (detail,) = status["details"]
    assert detail["type"] == "google.rpc.ErrorInfo"
    value = detail["value"]
    info = ErrorInfo.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (info.reason, info.domain) == ("PROJECT_NOT_FOUND", "ramify")


def test_a_body_is_put_named_listed_and_read_back(answers: Answers) -> None:
    put, _, listed, read = answers["Large bodies and stages"]
    (named,) = put.documents
    assert named["payload"]["originalBytes"] == "5"
    (page,) = listed.documents
    (record,) = page["stages"]
    assert record["output"]["ref"] == named["payload"]
    (body,) = read.documents
    assert body == {**named, "data": "aGVsbG8="}


def test_the_orchestrator_is_listed_and_called_the_same_way(answers: Answers) -> None:
    listed, runner, started, cancelled = answers["The orchestrator"]
    descriptor = orchestrator_service_pb2.DESCRIPTOR.services_by_name["OrchestratorService"]
    every = methods(descriptor.full_name, [method.name for method in descriptor.methods])
    assert every <= set(listed.output.split())
    assert "scripted" in runner.documents[0]["profiles"]
    assert started.documents[0]["project"]["projectId"] == "run-by-hand"
    assert cancelled.documents[0]["commandId"]


def test_what_is_repeated_returns_the_first_answer(
    answers: Answers, shared_state: StateProcess
) -> None:
    """The page can be followed twice: creating and committing are repeatable."""
    recipes: list[Recipe] = [r for r in read_recipes() if r.section == "A project by hand"]
    for recipe, before in zip(recipes[:2], answers["A project by hand"], strict=False):
        (again,) = run(recipe, STATE=shared_state.address).documents
        (first,) = before.documents
        if "revision" in first:
            assert again == first
        else:
            assert again["project"]["projectUid"] == first["project"]["projectUid"]
