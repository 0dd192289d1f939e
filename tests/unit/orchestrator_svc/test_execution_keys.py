"""Each execution key that acts in the core: changing it changes what a run does."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.graph.patience import Patience, Step
from orchestrator_svc.graph.rate import WINDOW_SECONDS, RateWindow
from orchestrator_svc.graph.settings import KEYS as CORE_KEYS
from orchestrator_svc.graph.settings import LEVELS, choose, effective
from orchestrator_svc.graph.types import ErrorClass, NodeState, NodeType, Stage
from orchestrator_svc.settings import ALL_KEYS, InvalidSetting, settle
from tests.unit.orchestrator_svc.driven import DEFAULTS, Driven, done, draft, failed, planned

S = NodeState


@pytest.mark.execution_key("max_concurrent_nodes")
@pytest.mark.parametrize("most", [1, 3])
def test_max_concurrent_nodes_bounds_open_calls(most: int) -> None:
    driven = planned(*[draft()] * 5, settings=replace(DEFAULTS, max_concurrent_nodes=most))
    assert len(driven.calls) == most


@pytest.mark.execution_key("max_execution_steps")
@pytest.mark.parametrize("most, state", [(2, S.FAILED), (0, S.RUNNING)])
def test_max_execution_steps_bounds_dispatches(most: int, state: NodeState) -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_execution_steps=most))
    assert (driven.state("root.1.0"), driven.state("root.1.1")) == (S.RUNNING, state)


@pytest.mark.execution_key("max_recursion_depth")
@pytest.mark.parametrize("depth, stage", [(1, Stage.EXECUTE), (2, Stage.PLAN)])
def test_max_recursion_depth_ends_planning(depth: int, stage: Stage) -> None:
    settings = replace(DEFAULTS, max_recursion_depth=depth)
    driven = planned(draft(node_type=NodeType.PLAN), settings=settings)
    assert driven.calls["root.1.0"].stage is stage


@pytest.mark.execution_key("max_retries")
@pytest.mark.parametrize("most, state", [(0, S.FAILED), (1, S.READY)])
def test_max_retries_bounds_attempts(most: int, state: NodeState) -> None:
    driven = planned(draft(), draft(), settings=replace(DEFAULTS, max_retries=most))
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    assert driven.state("root.1.0") is state


@pytest.mark.execution_key("retry_delay_seconds")
@pytest.mark.parametrize("base", [4.0, 20.0, 3_600.0])
def test_retry_delay_seconds_is_the_base_of_the_backoff(base: float) -> None:
    driven = planned(draft(), settings=replace(DEFAULTS, retry_delay_seconds=base))
    driven.answer("root.1.0", failed(ErrorClass.CONNECTION))
    assert driven.node("root.1.0").next_attempt_time == driven.now + base / 2, "random is 0.5"


@pytest.mark.execution_key("node_execution_timeout_seconds")
@pytest.mark.parametrize("seconds", [5.0, 50.0])
def test_node_execution_timeout_seconds_bounds_an_attempt(seconds: float) -> None:
    driven = Driven(settings=replace(DEFAULTS, node_execution_timeout_seconds=seconds))
    assert driven.calls["root"].timeout == seconds


@pytest.mark.execution_key("force_root_node_planning")
@pytest.mark.parametrize("force, stage", [(True, Stage.PLAN), (False, Stage.ATOMIZE)])
def test_force_root_node_planning_asks_no_atomizer_about_the_root(
    force: bool, stage: Stage
) -> None:
    driven = Driven(settings=replace(DEFAULTS, force_root_node_planning=force))
    assert driven.calls["root"].stage is stage


@pytest.mark.execution_key("skip_atomization")
@pytest.mark.parametrize("skip, stage", [(True, Stage.EXECUTE), (False, Stage.ATOMIZE)])
def test_skip_atomization_asks_no_atomizer_at_all(skip: bool, stage: Stage) -> None:
    driven = planned(draft(node_type=None), settings=replace(DEFAULTS, skip_atomization=skip))
    assert driven.calls["root.1.0"].stage is stage


@pytest.mark.execution_key("enable_immediate_slot_fill")
@pytest.mark.parametrize("at_once", [True, False])
def test_enable_immediate_slot_fill_off_runs_in_waves(at_once: bool) -> None:
    settings = replace(
        DEFAULTS,
        enable_immediate_slot_fill=at_once,
        max_concurrent_nodes=2,
        max_parallel_nodes=2,
    )
    driven = planned(*[draft()] * 4, settings=settings)
    driven.answer("root.1.0", done())
    assert list(driven.calls) == ["root.1.1", *["root.1.2"] * at_once]
    driven.answer("root.1.1", done())
    assert {"root.1.2", "root.1.3"} == set(driven.calls)


@pytest.mark.execution_key("max_parallel_nodes")
@pytest.mark.parametrize("most", [1, 3])
def test_max_parallel_nodes_bounds_a_wave(most: int) -> None:
    settings = replace(DEFAULTS, enable_immediate_slot_fill=False, max_parallel_nodes=most)
    assert len(planned(*[draft()] * 5, settings=settings).calls) == most
    free = replace(settings, enable_immediate_slot_fill=True)
    assert len(planned(*[draft()] * 5, settings=free).calls) == 5


@pytest.mark.execution_key("max_recovery_attempts")
@pytest.mark.parametrize("most, state", [(0, S.FAILED), (1, S.READY)])
def test_max_recovery_attempts_bounds_attempts_after_timeouts(most: int, state: NodeState) -> None:
    settings = replace(DEFAULTS, max_recovery_attempts=most, max_retries=1)
    driven = planned(draft(), draft(), settings=settings)
    driven.answer("root.1.0", failed(ErrorClass.TIMEOUT))
    driven.answer("root.1.1", failed(ErrorClass.CONNECTION))
    assert (driven.state("root.1.0"), driven.state("root.1.1")) == (state, S.READY)


@pytest.mark.execution_key("timeout_warning_seconds")
@pytest.mark.execution_key("timeout_soft_seconds")
@pytest.mark.execution_key("timeout_hard_seconds")
def test_each_threshold_of_silence_has_its_step() -> None:
    patience = Patience(
        replace(
            DEFAULTS,
            timeout_warning_seconds=5.0,
            timeout_soft_seconds=7.0,
            timeout_hard_seconds=9.0,
        )
    )
    steps = {4.9: Step.CALM, 5.0: Step.WARNED, 7.0: Step.ASKED, 9.0: Step.CANCELLED}
    assert {silent: patience.step(silent) for silent in steps} == steps
    assert [patience.next_look(silent) for silent in (0.0, 5.0, 8.0, 9.0)] == [5.0, 2.0, 1.0, None]


def test_a_threshold_of_0_is_left_out() -> None:
    never = Patience(
        replace(DEFAULTS, timeout_warning_seconds=0, timeout_soft_seconds=0, timeout_hard_seconds=0)
    )
    assert (never.step(1e9), never.next_look(0.0)) == (Step.CALM, None)
    hard = Patience(replace(DEFAULTS, timeout_warning_seconds=0, timeout_soft_seconds=0))
    assert (hard.step(299.0), hard.next_look(100.0)) == (Step.CALM, 200.0)


@pytest.mark.execution_key("rate_limit_rpm")
@given(
    most=st.integers(1, 5),
    pauses=st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=40),
)
def test_rate_limit_rpm_holds_in_any_minute_and_delays_no_more_than_that(
    most: int, pauses: list[float]
) -> None:
    window, now, begun = RateWindow(most), 0.0, list[float]()
    for pause in pauses:
        now += pause
        begun.append(now + window.claim(now))
    for number, at in enumerate(begun):
        if number >= most:
            assert at - begun[number - most] >= WINDOW_SECONDS - 1e-6
    assert begun == sorted(begun)
    assert begun[:most] == list(accumulate(pauses))[:most], "nobody waits below the limit"


@pytest.mark.execution_key("optimization_level")
def test_optimization_level_sets_other_keys_that_are_not_chosen() -> None:
    assert effective({"optimization_level": "balanced"}) == effective()
    for level, preset in LEVELS.items():
        chosen = choose({"optimization_level": level})
        assert chosen == {**preset, "optimization_level": level}
        core = {key: value for key, value in chosen.items() if key in CORE_KEYS}
        assert asdict(effective({"optimization_level": level})) == {**asdict(effective()), **core}
        own = effective({"max_concurrent_nodes": 7}, {"optimization_level": level})
        assert own.max_concurrent_nodes == 7, "a chosen key wins"


def test_the_docs_show_what_each_level_sets() -> None:
    page = (Path(__file__).parents[3] / "docs" / "execution.md").read_text("utf-8")
    changed = {key for preset in LEVELS.values() for key in preset}
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|`]+ \| [^|`]+ \| [^|`]+) \|$", page, re.MULTILINE))
    defaults = {name: key.default for name, key in ALL_KEYS.items()}
    levels = [{**defaults, **choose({"optimization_level": level})} for level in LEVELS]
    for key in changed:
        assert rows[key] == " | ".join(str(level[key]).lower() for level in levels)


def test_thresholds_of_silence_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="timeout_soft_seconds: of 60 has to be more than"):
        settle({"timeout_soft_seconds": 60.0})
    settle({"timeout_warning_seconds": 0.0, "timeout_soft_seconds": 5.0})
