"""What a planner attaches is measured as the store measures it, and refused where it would be."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Value
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.budget import Allowance, Budget
from orchestrator_svc.graph.decide import MAX_PROGRESS_CHARS
from orchestrator_svc.graph.details import (
    MAX_DETAILS_BYTES,
    MAX_DETAILS_KEYS,
    MAX_DETAILS_LEVELS,
    NotStorable,
    details_bytes,
)
from orchestrator_svc.graph.forced import Action, Forced, Pattern
from orchestrator_svc.graph.plan import check_plan
from orchestrator_svc.graph.treat import MAX_REASON_CHARS
from orchestrator_svc.graph.types import NodeState
from orchestrator_svc.publish import attributes as keys
from orchestrator_svc.publish.attributes import (
    ALLOWANCE_KEY,
    BUDGET_KEY,
    CRASHES_KEY,
    DETAILS_KEY,
    FORCED_KEY,
    MAX_RETRIES_KEY,
    PROGRESS_KEY,
    REVIEW_KEY,
    REVIEWS_KEY,
    forced_record,
)
from orchestrator_svc.publish.value import set_value
from state_svc.model import limits
from state_svc.model.validate import check_values
from tests.unit.orchestrator_svc.driven import draft

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=200)
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
)


def stored(details: Any) -> Value:
    value = Value()
    set_value(value, details)
    return value


def nested(levels: int) -> dict[str, Any]:
    """Return details in which so many objects are within each other."""
    inner: dict[str, Any] = {"x": 1}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return inner


@given(st.dictionaries(st.text(max_size=3), _JSON, min_size=1))
def test_the_size_of_details_is_that_of_their_message(details: dict[str, Any]) -> None:
    size = stored(details).ByteSize()
    try:
        assert details_bytes(details) == size
    except NotStorable:
        assert size > MAX_DETAILS_BYTES or len(details) > MAX_DETAILS_KEYS


@pytest.mark.parametrize("levels", [1, 15, 16, 17, 20, 60, 100_000])
def test_details_are_as_deep_as_the_store_takes_them(levels: int) -> None:
    details = nested(levels)
    assert MAX_DETAILS_LEVELS == limits.MAX_VALUE_DEPTH
    if levels <= MAX_DETAILS_LEVELS:
        assert details_bytes(details)
        assert not check_values({"details": stored(details)})
        return
    with pytest.raises(NotStorable, match="nested more than 16 levels deep"):
        details_bytes(details)
    if levels <= 60:
        assert "nested" in check_values({"details": stored(details)})


@pytest.mark.parametrize(
    "details, why",
    [
        ({"ids": list(range(1_600))}, "have 17621 bytes, at most 10000 are allowed"),
        (
            {"n": 10**400},
            "have a number that cannot be stored exactly: a whole number of more than 308 digits",
        ),
        ({"n": 2**53 + 1}, "have a number that cannot be stored exactly: 9007199254740993"),
        ({"n": float("inf")}, "have a number that cannot be stored exactly: inf"),
        ({"t": "\ud800"}, "have text that is not valid Unicode"),
        ({"\udfff": 1}, "have text that is not valid Unicode"),
        ({1: 2}, "are not JSON: they have a int as a key"),
        ({"t": (1, 2)}, "are not JSON: they have a tuple"),
        ([1], "are not JSON: they are no object"),
        ({str(n): n for n in range(65)}, "have 65 keys, at most 64 are allowed"),
    ],
)
def test_details_that_cannot_be_stored_are_refused_to_the_planner(
    details: dict[str, Any], why: str
) -> None:
    found = check_plan(
        [draft("one"), replace(draft("two"), details=details)],
        layer=0,
        max_depth=5,
        objective="a goal",
    )
    assert len(found) == 1
    assert found[0].startswith("task 1: the details " + why)


def test_the_largest_details_leave_room_for_every_other_attribute_of_a_node() -> None:
    text = "🌳"
    forced = Forced(
        Pattern.RESOURCE_STARVATION,
        Action.FORCE_COMPLETE,
        NodeState.NEEDS_REPLAN,
        NodeState.NEEDS_REPLAN,
        text * MAX_REASON_CHARS,
    )
    details = {"t": "x" * (MAX_DETAILS_BYTES - 20)}
    assert MAX_DETAILS_BYTES - 20 < details_bytes(details) <= MAX_DETAILS_BYTES
    allowance = Allowance(
        since=0.5,
        tokens=1,
        cost_usd=1.5,
        wall_seconds=1.5,
        nodes=1,
        short=True,
        final=True,
        review_id="r" * limits.MAX_ID_CHARS,
    )
    attributes: dict[str, Any] = {
        DETAILS_KEY: details,
        BUDGET_KEY: asdict(Budget(tokens=1, cost_usd=1.5, wall_seconds=1.5, nodes=1, depth=1)),
        ALLOWANCE_KEY: asdict(allowance),
        FORCED_KEY: forced_record(forced),
        PROGRESS_KEY: text * MAX_PROGRESS_CHARS,
        REVIEW_KEY: "r" * limits.MAX_ID_CHARS,
        REVIEWS_KEY: 1,
        CRASHES_KEY: 1,
        MAX_RETRIES_KEY: 1,
    }
    assert set(attributes) == {v for k, v in vars(keys).items() if k.endswith("_KEY")}
    assert check_values({key: stored(value) for key, value in attributes.items()}) == ""
