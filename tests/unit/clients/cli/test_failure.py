"""An error is one sentence in the user's words, and its remedy is a command that can be typed."""

import re

import pytest

from ramify.cli import failure
from ramify.cli.exits import ExitCode
from ramify.cli.failure import explain
from ramify.cli.main import app
from ramify.errors import BY_REASON, error_for


@pytest.mark.parametrize(
    "reason, metadata, message, remedy, code",
    [
        (
            "PROJECT_NOT_FOUND",
            {"project_id": "p"},
            "there is no run p",
            "`ramify ls` lists those there are",
            ExitCode.NOT_FOUND,
        ),
        (
            "NODE_NOT_FOUND",
            {"project_id": "p", "node_id": "n"},
            "run p has no node n",
            "`ramify show p` lists its nodes",
            ExitCode.NOT_FOUND,
        ),
        (
            "REVISION_AHEAD",
            {"revision": "9", "head_revision": "4"},
            "there is no revision 9 yet, the latest is 4",
            "name an earlier one, or none",
            ExitCode.REFUSED,
        ),
        (
            "INVALID_REQUEST",
            {"field": "goal", "problem": "is needed"},
            "goal: is needed",
            "",
            ExitCode.USAGE,
        ),
        (
            "PROJECT_ENDED",
            {"project_id": "p"},
            "run p has ended",
            "`ramify show p` has its result",
            ExitCode.REFUSED,
        ),
    ],
)
def test_an_error_is_said_in_the_users_words_with_its_values(
    reason: str, metadata: dict[str, str], message: str, remedy: str, code: ExitCode
) -> None:
    shown = explain(error_for("", reason, "The server's words: a=b", metadata))
    assert (shown.message, shown.remedy, shown.code) == (message, remedy, code)


def test_without_values_the_servers_words_are_shown() -> None:
    shown = explain(error_for("NOT_FOUND", "NODE_NOT_FOUND", "no such node"))
    assert shown.message == "no such node"
    assert shown.remedy == "`ramify show ID` lists its nodes"


def test_values_behind_the_servers_words_are_left_to_programs() -> None:
    metadata = {"field": "agent_options"}
    error = error_for("", "INVALID_REQUEST", "no option x (field=agent_options)", metadata)
    assert explain(error).message == "no option x"
    assert explain(error_for("", "INTERNAL", "f (a=b)")).message == "f (a=b)"


def test_calls_that_a_refusal_names_are_shown_as_commands() -> None:
    words = "n is DONE; ReplanNode root.1 makes a new plan, ForkProject goes back"
    assert explain(error_for("", "COMMAND_REFUSED", words)).message == (
        "n is DONE; `ramify replan ID root.1` makes a new plan, "
        "`ramify fork ID --at REVISION` goes back"
    )


def test_the_commands_name_the_run_if_the_refusal_does() -> None:
    for run in ("bad", "ResumeProject"):
        words = f"root is DONE; ReplanNode root makes a new plan (project_id={run}, command_id=c)"
        error = error_for("", "COMMAND_REFUSED", words, {"project_id": run, "command_id": "c"})
        assert (
            explain(error).message == f"root is DONE; `ramify replan {run} root` makes a new plan"
        )


def test_every_remedy_and_every_named_call_is_a_command_that_exists() -> None:
    commands = {command.name for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    shown = [explain(error_for("", reason, "")).remedy for reason in BY_REASON]
    named = {word for text in shown for word in re.findall(r"`ramify (\w+)", text)}
    named |= {
        call.lower()
        for pattern, _ in failure._COMMANDS
        for call in re.findall(r"[A-Z][a-z]+", pattern.pattern.partition(")")[0])
    }
    assert named <= commands
    assert {"ls", "show", "replan", "fork"} <= named
