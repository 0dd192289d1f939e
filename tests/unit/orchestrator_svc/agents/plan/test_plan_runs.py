"""Plans through the whole engine over a store in memory, with real child processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from google.protobuf.json_format import MessageToDict

from orchestrator_svc.agents.plan.outputs import MAX_OUTPUT_BYTES
from orchestrator_svc.agents.processes.client import Processes
from orchestrator_svc.agents.profile import built_in_profiles
from orchestrator_svc.graph.node import Node
from orchestrator_svc.graph.types import ErrorClass, NodeState, ProjectState
from ramify.v1.plan_pb2 import Plan
from tests.support.plans import contract_plan
from tests.unit.orchestrator_svc.agents.processes.test_processes import is_alive
from tests.unit.orchestrator_svc.engine.fake_store import FakeStore
from tests.unit.orchestrator_svc.engine.world import World
from tests.unit.orchestrator_svc.ledger import Ledger

S = NodeState
ROOT = str(Path(__file__).parents[5])
TARGETS = "tests.unit.orchestrator_svc.agents.plan.targets"


@asynccontextmanager
async def world_of_plans() -> AsyncIterator[World]:
    """An orchestrator that runs plans."""
    processes = Processes(16)
    profiles = built_in_profiles(Path("unused"), processes=processes)
    world = World(FakeStore(), profiles=profiles)
    world.keeper.ttl = 3_600.0  # nobody renews here
    try:
        async with world.running():
            yield world
    finally:
        await profiles.aclose()
        await processes.aclose()


async def run(tasks: str, **settings: int | float | bool | str) -> dict[str, Node]:
    """Run a plan to its end; return its nodes by task id, the root as "root"."""
    return by_task(await ledger_of(tasks, **settings))


async def ledger_of(tasks: str, **settings: int | float | bool | str) -> Ledger:
    """Run a plan to its end."""
    text = f"goal: a goal\nworking_directory: {ROOT}\ntasks:\n{tasks}"
    return await ledger_of_plan(contract_plan(text), **settings)


async def ledger_of_plan(plan: Plan, **settings: int | float | bool | str) -> Ledger:
    """Run a plan to its end."""
    async with world_of_plans() as world:
        options = MessageToDict(plan, preserving_proto_field_name=True)
        world.store.add(
            profile="plan",
            settings={"max_execution_steps": 0, "retry_delay_seconds": 0.0, **settings},
            plan=options,
        )
        world.supervisor.take_up("p")
        return await world.store.until_ended()


def by_task(ledger: Ledger) -> dict[str, Node]:
    """Return nodes by their task."""
    return {str(node.details.get("task", "root")): node for node in ledger.nodes.values()}


def text(node: Node) -> str:
    """Return a node's result."""
    assert node.result is not None, node.error
    return node.result.text


async def test_commands_functions_and_groups_run_to_a_truthful_report() -> None:
    ledger = await ledger_of(f"""
- {{id: hello, command: {{shell: 'echo hello; echo careful >&2'}}}}
- id: group
  depends_on: [hello]
  tasks:
  - {{id: sum, python: {{function: '{TARGETS}:add', args: [2, 3]}}}}
  - {{id: number, command: {{argv: [echo, '[1]'], output: PLAN_OUTPUT_JSON}}}}
""")
    nodes = by_task(ledger)
    assert ledger.state is ProjectState.COMPLETED
    assert text(nodes["hello"]) == "hello\n"
    assert nodes["hello"].result is not None
    assert nodes["hello"].result.summary.startswith("exit code 0 after ")
    assert nodes["hello"].result.summary.endswith("; on standard error: careful")
    assert (text(nodes["sum"]), text(nodes["number"])) == ("5", "[1]\n")
    assert nodes["number"].result is not None
    assert nodes["number"].result.content_type == "application/json"
    assert nodes["number"].agent_name == "plan.command"
    report = text(nodes["root"])
    assert report.startswith("# a goal\n\n2 of 2 tasks done.")
    assert "| hello | DONE | exit code 0 after" in report
    assert "## group\n\n2 of 2 tasks done." in report
    assert "| sum | DONE |" in report


async def test_a_failure_says_how_and_keeps_only_its_dependants_from_running() -> None:
    ledger = await ledger_of(f"""
- {{id: broken, command: {{shell: 'echo the reason >&2; exit 3'}}}}
- {{id: after, depends_on: [broken], command: {{argv: ['true']}}}}
- {{id: raises, python: {{function: '{TARGETS}:fail', args: [no luck]}}}}
- {{id: leaves, python: {{function: '{TARGETS}:leave'}}}}
- {{id: absent, command: {{argv: [no-such-program-here]}}}}
- {{id: fine, command: {{argv: ['true']}}}}
- {{id: words, command: {{argv: [echo, words], output: PLAN_OUTPUT_JSON}}}}
""")
    nodes = by_task(ledger)
    assert ledger.state is ProjectState.PARTIAL
    errors = {id_: node.error for id_, node in nodes.items() if node.error}
    assert {id_: error.error_class for id_, error in errors.items()} == {
        "broken": ErrorClass.EXECUTION,
        "after": ErrorClass.DEPENDENCY_FAILED,
        "raises": ErrorClass.EXECUTION,
        "leaves": ErrorClass.EXECUTION,
        "absent": ErrorClass.EXECUTION,
        "words": ErrorClass.INVALID_OUTPUT,
    }
    assert errors["broken"].message.startswith("exit code 3 after ")
    assert errors["broken"].message.endswith("the reason")
    assert ": RuntimeError: no luck\n" in errors["raises"].message
    assert errors["leaves"].message.startswith("the function ended without a value")
    assert errors["absent"].message.startswith("cannot be started: No such file")
    report = text(nodes["root"])
    assert "1 of 7 tasks done, 6 FAILED." in report
    assert "## broken failed" in report
    assert "the reason" in report


async def test_what_needs_a_group_does_not_run_when_a_task_of_it_has_failed() -> None:
    ledger = await ledger_of("""
- id: tests
  tasks:
  - {id: unit, command: {shell: 'echo the widget is blue >&2; exit 1'}}
  - {id: style, command: {argv: ['true']}}
- {id: deploy, depends_on: [tests], command: {argv: ['true']}}
- {id: lint, command: {argv: ['true']}}
""")
    nodes = by_task(ledger)
    states = {id_: node.state for id_, node in nodes.items()}
    assert states == {
        "root": S.DONE,
        "tests": S.FAILED,
        "unit": S.FAILED,
        "style": S.DONE,
        "deploy": S.FAILED,
        "lint": S.DONE,
    }
    assert ledger.state is ProjectState.PARTIAL
    failure, deploy = nodes["tests"].error, nodes["deploy"].error
    assert failure is not None
    assert deploy is not None
    unit = nodes["unit"].node_id
    assert (failure.error_class, failure.node_id) == (ErrorClass.DEPENDENCY_FAILED, unit)
    assert failure.message.startswith("1 of 2 tasks are not done: unit\nunit: EXECUTION: exit code")
    assert failure.message.endswith("the widget is blue")
    assert (deploy.error_class, deploy.node_id) == (ErrorClass.DEPENDENCY_FAILED, unit)
    report = text(nodes["root"])
    assert "| tests | FAILED | DEPENDENCY_FAILED: 1 of 2 tasks are not done: unit |" in report
    assert "the widget is blue" in report
    assert ledger.error is not None
    assert ledger.error.message.startswith(f"3 of 6 nodes are not done: {unit} FAILED (EXECUTION")


async def test_a_group_is_done_when_the_rest_of_it_was_skipped() -> None:
    nodes = await run(
        """
- id: group
  tasks:
  - {id: fails, command: {shell: 'exit 1'}}
  - {id: skipped, depends_on: [fails], command: {argv: ['true']}}
  - {id: fine, command: {argv: ['true']}}
""",
        on_dependency_failure="skip",
    )
    assert nodes["skipped"].state is S.CANCELLED
    assert nodes["group"].error is not None
    assert nodes["group"].error.message.startswith("1 of 3 tasks are not done: fails\nfails: ")


async def test_each_task_has_the_policies_that_the_plan_gives_it(tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}"
    nodes = await run(f"""
- {{id: fails, command: {{shell: 'exit 1'}}}}
- id: skipped
  depends_on: [fails]
  on_dependency_failure: DEPENDENCY_POLICY_SKIP
  command: {{argv: ['true']}}
- id: cleans
  depends_on: [fails]
  on_dependency_failure: DEPENDENCY_POLICY_RUN
  command: {{argv: ['true']}}
- {{id: needs, depends_on: [fails], command: {{argv: ['true']}}}}
- id: group
  tasks:
  - {{id: fine, command: {{argv: ['true']}}}}
  - {{id: again, on_exhausted: EXHAUSTED_POLICY_REPLAN, command: {{shell: '{once}'}}}}
- id: slow
  budget: {{wall_seconds: 0.000001}}
  tasks: [{{id: late, command: {{argv: ['true']}}}}]
""")
    states = {id_: node.state for id_, node in nodes.items() if not node.superseded}
    assert states["skipped"] is S.CANCELLED
    assert states["cleans"] is S.DONE
    assert states["needs"] is S.FAILED
    assert (states["again"], states["group"]) == (S.DONE, S.DONE)
    error = nodes["late"].error
    assert error is not None
    assert error.error_class is ErrorClass.LIMIT


async def test_a_task_is_tried_again_as_often_as_the_plan_says(tmp_path: Path) -> None:
    count = 'echo x >> "$FILE"; test $(wc -l < "$FILE") -ge 3'
    nodes = await run(f"""
- {{id: twice, retries: 2, env: {{FILE: {tmp_path}/a}}, command: {{shell: '{count}'}}}}
- {{id: once, env: {{FILE: {tmp_path}/b}}, command: {{shell: '{count}'}}}}
""")
    assert (nodes["twice"].state, nodes["twice"].retry_count) == (S.DONE, 2)
    assert (nodes["once"].state, nodes["once"].retry_count) == (S.FAILED, 0)
    assert len((tmp_path / "b").read_text().splitlines()) == 1


async def test_a_task_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    shell = f"echo half way; sleep 600 & echo $! > {pid_file}; wait"
    nodes = await run(f"- {{id: slow, timeout: 5s, command: {{shell: '{shell}'}}}}")
    error = nodes["slow"].error
    assert error is not None
    assert error.error_class is ErrorClass.TIMEOUT
    assert error.message == "did not end within 5 s and was ended:\nhalf way"
    assert not is_alive(int(pid_file.read_text()))


async def test_results_are_handed_on(tmp_path: Path) -> None:
    nodes = await run(f"""
- {{id: one, python: {{function: '{TARGETS}:add', args: [1, 2]}}}}
- {{id: two, command: {{argv: [echo, hi]}}}}
- {{id: fn, depends_on: [two, one], pass_dependencies: true,
   python: {{function: '{TARGETS}:given'}}}}
- {{id: sh, depends_on: [one], pass_dependencies: true, command: {{argv: [cat]}}}}
- {{id: env, command: {{shell: 'echo $RAMIFY_PROJECT_ID $RAMIFY_TASK_ID $RAMIFY_ATTEMPT'}}}}
""")
    assert json.loads(text(nodes["fn"])) == {"two": "hi\n", "one": 3}
    assert json.loads(text(nodes["sh"])) == {"one": 3}
    assert text(nodes["env"]) == "p env 1\n"


async def test_cancelling_a_run_ends_its_processes(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    shell = f"echo $$ > {pid_file}.part; mv {pid_file}.part {pid_file}; exec sleep 600"
    plan = contract_plan(f"goal: a goal\ntasks:\n- {{id: a, command: {{shell: '{shell}'}}}}\n")
    async with world_of_plans() as world:
        options = MessageToDict(plan, preserving_proto_field_name=True)
        world.store.add(profile="plan", plan=options)
        world.supervisor.take_up("p")
        await world.until(lambda: pid_file.exists())
        world.store.order_cancel()
        ledger = await world.store.until_ended()
        assert ledger.state is ProjectState.CANCELLED
        assert not is_alive(int(pid_file.read_text()))


async def test_what_a_task_prints_is_its_progress(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    shell = f"echo step one; while [ ! -e {go_on} ]; do sleep 0.01; done"
    plan = contract_plan(f"goal: a goal\ntasks:\n- {{id: a, command: {{shell: '{shell}'}}}}\n")
    async with world_of_plans() as world:
        options = MessageToDict(plan, preserving_proto_field_name=True)
        ledger = world.store.add(profile="plan", plan=options)
        world.supervisor.take_up("p")
        await world.until(lambda: "step one" in [n.progress for n in ledger.nodes.values()])
        go_on.touch()
        await world.store.until_ended()
    assert by_task(ledger)["a"].progress == "step one"


@asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    """A server that echoes, answers `/status/N` with N, and has some bad places."""

    async def echo(request: web.Request) -> web.Response:
        said = {"method": request.method, "body": await request.text(), "x": request.headers["X"]}
        return web.json_response(said)

    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["n"]), text="as asked")

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65_536)
        return response

    async def silent(request: web.Request) -> web.Response:
        await asyncio.sleep(3_600)
        return web.Response()

    async def old(request: web.Request) -> web.Response:
        return web.Response(body="é".encode("latin-1"), content_type="text/plain", charset="latin1")

    async def around(request: web.Request) -> web.Response:
        raise web.HTTPFound("/round?token=hidden")

    async def to_a_file(request: web.Request) -> web.Response:
        raise web.HTTPFound("file:///etc/passwd")

    app = web.Application()
    app.router.add_get("/endless", endless)
    app.router.add_get("/silent", silent)
    app.router.add_get("/old", old)
    app.router.add_get("/round", around)
    app.router.add_get("/file", to_a_file)
    app.router.add_route("*", "/echo", echo)
    app.router.add_route("*", "/status/{n}", status)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def test_requests_are_made_and_their_status_is_judged() -> None:
    async with http_server() as base:
        nodes = await run(f"""
- {{id: post, http: {{url: '{base}/echo', method: POST, headers: {{X: y}}, body: hi,
   output: PLAN_OUTPUT_JSON}}}}
- {{id: gone, http: {{url: '{base}/status/410'}}}}
- {{id: expected, http: {{url: '{base}/status/410', expected_status: [410]}}}}
- {{id: old, http: {{url: '{base}/old'}}}}
- {{id: busy, http: {{url: '{base}/status/429'}}}}
- {{id: nobody, http: {{url: 'http://127.0.0.1:9/'}}}}
""")
    assert json.loads(text(nodes["post"])) == {"method": "POST", "body": "hi", "x": "y"}
    assert text(nodes["expected"]) == "as asked"
    assert text(nodes["old"]) == "é"
    classes = {id_: n.error.error_class for id_, n in nodes.items() if n.error}
    assert classes == {
        "gone": ErrorClass.EXECUTION,
        "busy": ErrorClass.RATE_LIMIT,
        "nobody": ErrorClass.CONNECTION,
    }
    assert nodes["gone"].error is not None
    assert " answered 410 in " in nodes["gone"].error.message


async def test_an_answer_is_read_up_to_the_limit_and_redirects_end() -> None:
    async with http_server() as base:
        nodes = await run(f"""
- {{id: endless, http: {{url: '{base}/endless'}}}}
- {{id: round, http: {{url: '{base}/round?token=hidden'}}}}
- {{id: away, http: {{url: '{base}/file'}}}}
- {{id: silent, timeout: 0.5s, http: {{url: '{base}/silent'}}}}
""")
    assert len(text(nodes["endless"])) == MAX_OUTPUT_BYTES
    assert nodes["endless"].result is not None
    assert nodes["endless"].result.summary.endswith("; the rest of its answer is left out")
    errors = {id_: node.error for id_, node in nodes.items() if node.error}
    assert {id_: error.error_class for id_, error in errors.items()} == {
        "round": ErrorClass.EXECUTION,
        "away": ErrorClass.EXECUTION,
        "silent": ErrorClass.TIMEOUT,
    }
    assert errors["round"].message.endswith("/round?… was sent on more than 10 times")


async def test_secrets_of_a_request_come_from_the_environment_and_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN_OF_TEST", "hidden")
    async with http_server() as base:
        with_password = base.replace("http://", "http://me:hidden@")
        ledger = await ledger_of(f"""
- {{id: header, http: {{url: '{base}/echo', headers: {{X: 'a ${{TOKEN_OF_TEST}}'}},
   output: PLAN_OUTPUT_JSON}}}}
- {{id: absent, http: {{url: '{base}/echo', headers: {{X: '${{NO_SUCH_NAME}}'}}}}}}
- {{id: query, http: {{url: '{with_password}/status/410?key=hidden'}}}}
""")
    nodes = by_task(ledger)
    assert json.loads(text(nodes["header"]))["x"] == "a hidden"
    assert nodes["absent"].error is not None
    assert nodes["absent"].error.message == "${NO_SUCH_NAME} of a header is not set"
    assert nodes["query"].error is not None
    assert "/status/410?… answered 410" in nodes["query"].error.message
    assert "hidden" not in nodes["query"].error.message + nodes["query"].progress
    assert "hidden" not in nodes["query"].goal + nodes["header"].goal


async def test_an_output_that_no_json_can_say_fails_the_task(tmp_path: Path) -> None:
    (tmp_path / "deep").write_bytes(b"[" * 100_000)
    (tmp_path / "wide").write_bytes(b'"\xff"')
    nodes = await run(f"""
- {{id: nan, command: {{argv: [echo, NaN], output: PLAN_OUTPUT_JSON}}}}
- {{id: deep, command: {{argv: [cat, {tmp_path}/deep], output: PLAN_OUTPUT_JSON}}}}
- {{id: wide, command: {{argv: [cat, {tmp_path}/wide], output: PLAN_OUTPUT_JSON}}}}
""")
    for id_ in ("nan", "deep", "wide"):
        error = nodes[id_].error
        assert error is not None
        assert error.error_class is ErrorClass.INVALID_OUTPUT, error.message


async def test_a_project_of_this_profile_without_a_plan_fails_and_says_why() -> None:
    async with world_of_plans() as world:
        world.store.add(profile="plan")
        world.supervisor.take_up("p")
        ledger = await world.store.until_ended()
    assert ledger.state is ProjectState.FAILED
    assert ledger.error is not None
    assert "the project has no plan" in ledger.error.message


async def test_an_orchestrator_that_runs_no_plans_leaves_such_a_project_alone() -> None:
    profiles = built_in_profiles(Path("unused"), plans_refused="plans are not run here")
    world = World(FakeStore(), profiles=profiles)
    ledger = world.store.add(profile="plan", plan={"goal": "a goal"})
    async with world.running():
        await world.until(lambda: world.supervisor.missing_profiles)
        world.supervisor.take_up("p")
        await world.until(lambda: world.store.loads and not world.leases.holders)
    assert world.supervisor.problem_with("plan") == "plans are not run here"
    assert ledger.state is ProjectState.PENDING
    assert not world.store.batches


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_two_thousand_tasks_in_layers_respect_every_dependency(tmp_path: Path) -> None:
    layers, width = 20, 100
    log = tmp_path / "log"
    plan = Plan(goal="a goal", working_directory=ROOT)
    for layer in range(layers):
        for place in range(width):
            task = plan.tasks.add(id=f"t{layer}-{place}")
            if layer:  # three tasks of the layer before, so that layers overlap while they run
                near = {(place * step + layer) % width for step in (1, 3, 7)}
                task.depends_on.extend(f"t{layer - 1}-{other}" for other in sorted(near))
            if place % 10:
                task.python.function = f"{TARGETS}:note"
                task.python.args.add(string_value=str(log))
                task.python.args.add(string_value=task.id)
            else:
                task.command.shell = f"echo begin {task.id} >> {log}; echo end {task.id} >> {log}"
    ledger = await ledger_of_plan(plan, max_concurrent_nodes=32)
    assert ledger.state is ProjectState.COMPLETED
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == 2 * layers * width, "every task ran once"
    at = {(what, task_id): number for number, (what, task_id) in enumerate(lines)}
    for task in plan.tasks:
        for dependency in task.depends_on:
            assert at["end", dependency] < at["begin", task.id]
