"""docs/limits.md tells the truth: its numbers are the code's, its tests exist."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

from orchestrator_svc.agents.plan import outputs, requests, tree
from orchestrator_svc.agents.processes import function
from orchestrator_svc.config import ServiceConfig
from orchestrator_svc.graph import details, plan, trace, usage
from orchestrator_svc.publish import bodies, outbox, spill, stream
from orchestrator_svc.rpc import explain
from ramify import plan_file, plan_source, plan_spec
from ramify.v1.error_pb2 import ErrorReason
from state_svc import service
from state_svc.codec import compression
from state_svc.config import Settings
from state_svc.history import archive, past, snapshots
from state_svc.lease import table
from state_svc.metrics import _MAX_PROJECTS
from state_svc.model import limits, producer
from state_svc.payload import payloads
from state_svc.rpc import (
    convert,
    idle,
    leases,
    nodes,
    portable,
    reviews,
    server,
    standard,
    watch,
)
from state_svc.watch import feed, hub, joined, permit, session

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "limits.md").read_text("utf-8")

_BY_NAME = asdict(limits.Limits()) | {
    name: value for name, value in vars(limits).items() if name.startswith(("MAX_", "MIN_"))
}
#: What the code enforces, by the name on the page; a name of `model/limits.py`, or the value.
ENFORCED: dict[str, object] = {
    "mutations in a batch": "max_batch_mutations",
    "bytes in a batch": "max_batch_bytes",
    "bytes of entities that a batch changes more than once, for each time": "MAX_REPLACED_BYTES",
    "bytes of the effects of a batch": "MAX_REVISION_BYTES",
    "batches in a frame": "max_frame_batches",
    "bytes in a frame": "max_message_bytes",
    "bytes of `open` and `attach` of a stream": "MAX_CONTROL_BYTES",
    "bytes of any other message": "max_message_bytes",
    "nodes of a project, deleted ones too": "max_project_nodes",
    "least characters of a goal": "MIN_GOAL_CHARS",
    "characters of a goal": "max_goal_chars",
    "bytes of a payload inside a message": "max_payload_bytes",
    "bytes of a body in the payload store": "max_stored_payload_bytes",
    "bytes above which a body belongs there": "payload_inline_bytes",
    "characters of an id": "MAX_ID_CHARS",
    "characters of a name: agent, profile, actor, label": "MAX_NAME_CHARS",
    "characters of a text: summary, message, reason": "MAX_TEXT_CHARS",
    "characters of a request id": "MAX_REQUEST_ID_CHARS",
    "characters of a traceparent": "MAX_TRACEPARENT_CHARS",
    "layer of a node": "MAX_LAYER",
    "dependencies of a node": "MAX_DEPENDENCIES",
    "attributes, options or labels": "MAX_MAP_KEYS",
    "bytes of attributes or options": "MAX_MAP_BYTES",
    "levels in a value": "MAX_VALUE_DEPTH",
    "tool calls of a stage record": "MAX_TOOL_CALLS",
    "bytes of a review": "MAX_REVIEW_BYTES",
    "bytes of a given plan": "MAX_PLAN_BYTES",
    "pins of a project": "MAX_PINS",
    "values of a condition of a watch filter": watch._MAX_VALUES,
    "milliseconds between messages of a watch": watch._MAX_INTERVAL_MS,
    "encodings that a watch accepts": watch._MAX_ENCODINGS,
    "leases in a renewal": leases._MAX_RENEWALS,
    "seconds of a lease": f"{table.MIN_TTL:g} to {table.MAX_TTL:g}",
    "entries of a page": convert.MAX_PAGE_SIZE,
    "open watches": "max_watchers",
    "open mutation streams": "max_streams",
    "other calls under way": "max_calls",
    "calls about leases under way": server.MAX_LEASE_CALLS,
    "uploads and downloads under way": server.MAX_TRANSFERS,
    "watches of the health service": standard.MAX_HEALTH_WATCHES,
    "reflections under way": standard.MAX_REFLECTIONS,
    "accepted bytes that are not durable": Settings.model_fields["max_pending_bytes"].default,
    "unacknowledged batches of a stream": "credit_batches",
    "unacknowledged bytes of a stream": "credit_bytes",
    "bytes of changes kept for the watches of a project": feed.MAX_FEED_BYTES,
    "bytes of changes kept for the watches of all projects": feed.MAX_FEEDS_BYTES,
    "watches that replay the past through a filter": permit.MAX_REPLAYS,
    "watches that are sent the whole view of more than 5 000 nodes": permit.MAX_LARGE_SNAPSHOTS,
    "watches that are sent the whole view of fewer nodes": permit.MAX_SMALL_SNAPSHOTS,
    "immediate watches": hub.MAX_IMMEDIATE,
    "imports under way": portable._MAX_IMPORTS,
    "backups under way": 1,
    "seconds that an upload or a download stands still": int(idle.IDLE_SECONDS),
    "least bytes a second of an upload or a download, once it has made the service wait for 60"
    " seconds": idle.LEAST_RATE,
    "bytes of bodies of the payload store that are being put and read, as they arrive and"
    " inflated": payloads.MAX_BYTES_IN_TRANSIT,
    "views of the past that are being rebuilt": past.REBUILDS,
    "bytes of views of the past that are kept, and one view more": past.MAX_BYTES,
    "bytes of changes that a watch that is behind holds to coalesce them, and those of one"
    " revision": joined.MAX_JOINED_BYTES,
    "compactions that wait for their turn": snapshots.MAX_COMPACTIONS,
    "listings with pages to come": nodes._MAX_LISTINGS,
    "bytes of nodes that they hold, and one listing more": nodes._LISTED_BYTES,
    "project ids, of deleted projects too": "max_projects",
    "commands of a project, ended ones too": "max_project_commands",
    "reviews of a project, ended ones too": "max_project_reviews",
    "open reviews of a project": "max_open_reviews",
    "producers that name themselves": "max_producers",
    "producers that have written to a project": "max_project_producers",
    "answers to request ids within 24 hours": service.Requests.MOST,
    "bytes of a page": convert.MAX_PAGE_BYTES,
    "stored bytes of a log that are searched for one page": nodes._SEARCH_BYTES,
    "projects read from the store for one page of reviews": reviews._MAX_PEEKS,
    "violations of a rejected batch": "MAX_VIOLATIONS",
    "bytes of an error": 8 << 10,
    "seconds between bookmarks": int(session.MAX_BOOKMARK_SECONDS),
    "remembered sequences of a producer": producer.REMEMBERED,
    "snapshots of a project": snapshots.KEPT,
    "projects with counters": _MAX_PROJECTS,
    "bytes that a stored record inflates to": compression.MAX_INFLATED_BYTES,
    "batches of a run in the outbox": outbox.LANE_WINDOW,
    "notes on the progress of a call that wait": 1,
    "bytes of stage records in one record of their archive": archive._RECORD_BYTES,
    "bytes in memory that wait for state_svc": spill.SPOOL_ABOVE_BYTES,
    "bytes in the spool": ServiceConfig.model_fields["spool_bytes"].default,
    "bytes of batches in memory": stream.MAX_HELD_BYTES,
    "bodies of up to 64 KiB that are put into the payload store at one time": bodies.MAX_SMALL_PUTS,
    "larger bodies that are put at one time": bodies.MAX_LARGE_PUTS,
    "explanations under way": explain.MAX_ASKED,
    "explanations that are read and computed at one time": explain.MAX_AT_ONCE,
    "tasks of a planner's plan": plan.MAX_PLAN_TASKS,
    "bytes of the details of a task, as stored": details.MAX_DETAILS_BYTES,
    "keys of the details of a task": details.MAX_DETAILS_KEYS,
    "levels of the details of a task": details.MAX_DETAILS_LEVELS,
    "tasks of a plan that is one revision": plan.MAX_BATCH_TASKS,
    "bytes of a plan that is one revision, encoded": plan.MAX_BATCH_BYTES,
    "tool calls in the record of an agent call": trace.MAX_TOOL_CALLS,
    "bytes of these tool calls, bodies above 1 KiB by reference": trace.MAX_TOOL_BYTES,
    "tokens of a kind, or millionths of a dollar, of an agent call": usage.MAX_SPENT,
    "bytes of a plan file": plan_file.MAX_BYTES,
    "values in a plan file, those that aliases repeat included": plan_source.MAX_VALUES,
    "levels of values in a plan file": plan_source.MAX_DEPTH,
    "largest whole number of an argument": plan_spec.MAX_WHOLE_NUMBER,
    "bytes of an encoded plan": tree.MAX_PLAN_BYTES,
    "levels of tasks": tree.MAX_LEVELS,
    "tasks that a task depends on": plan.MAX_TASK_DEPENDENCIES,
    "characters of a task id": 64,
    "retries of a task": tree.MAX_RETRIES,
    "seconds of a task's time-out": int(tree.MAX_TIMEOUT),
    "tasks side by side in a plan that is reviewed": plan.MAX_BATCH_TASKS,
    "bytes of what a command prints": outputs.MAX_OUTPUT_BYTES,
    "bytes of an answer to a request": outputs.MAX_OUTPUT_BYTES,
    "redirects of a request": requests.MAX_REDIRECTS,
    "bytes of the value of a function": function.MAX_VALUE_BYTES,
}
_NAMES = [value.name for value in ErrorReason.DESCRIPTOR.values]
ROWS = {
    cells[0]: cells
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| limit ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def _shown(name: str, value: object) -> str:
    if not isinstance(value, int):
        return str(value)
    if "bytes" in name and value % (1 << 20) == 0:
        return f"{value >> 20} MiB"
    if "bytes" in name and value % (1 << 10) == 0:
        return f"{value >> 10} KiB"
    return f"{value:,}".replace(",", " ")


def test_the_page_names_every_limit_with_the_value_that_is_enforced() -> None:
    shown = {name: _shown(name, _BY_NAME.get(str(v), v)) for name, v in ENFORCED.items()}
    assert {name: cells[1] for name, cells in ROWS.items()} == shown


def test_the_page_says_which_view_is_large() -> None:
    assert f"more than {permit.LARGE_VIEW_NODES:,} nodes".replace(",", " ") in PAGE


def test_every_limit_of_the_code_is_on_the_page() -> None:
    assert set(_BY_NAME) - set(ENFORCED.values()) == set()


def test_a_plan_file_has_the_limits_of_the_plan_that_it_becomes() -> None:
    assert plan_file.MAX_PLAN_BYTES == tree.MAX_PLAN_BYTES == limits.MAX_PLAN_BYTES
    assert plan_file.MAX_LEVELS == tree.MAX_LEVELS
    assert plan_file.MAX_DEPENDENCIES == plan.MAX_TASK_DEPENDENCIES


@pytest.mark.parametrize("name", ROWS)
def test_the_key_the_error_and_the_test_of_a_limit_exist(name: str) -> None:
    _, value, key, beyond, test = ROWS[name]
    if key:
        keys = {**ServiceConfig.model_fields, **Settings.model_fields}
        default = keys[key.strip("`")].default
        assert _shown(name, default) == value
    reasons = {reason.removeprefix("ERROR_REASON_") for reason in _NAMES}
    assert set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)+\b|\bOVERLOADED\b", beyond)) <= reasons
    path, _, function = test.strip("`").partition("::")
    assert re.search(
        rf"^(?:async )?def {function}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE
    )
