"""What the user reads when the SDK raises: one line, a remedy and an exit code. Pure."""

import re
from collections.abc import Mapping

from ramify import errors
from ramify.cli.exits import CliError, ExitCode

#: Class, what to say, what to do, exit code; the most precise class first, the first that fits
#: decides. Names in braces are of the error's metadata; without them the server's words are shown.
_TABLE: tuple[tuple[type[errors.RamifyError], str, str, ExitCode], ...] = (
    (
        errors.ProjectNotFoundError,
        "there is no run {project_id}",
        "`ramify ls` lists those there are",
        ExitCode.NOT_FOUND,
    ),
    (
        errors.NodeNotFoundError,
        "run {project_id} has no node {node_id}",
        "`ramify show {project_id}` lists its nodes",
        ExitCode.NOT_FOUND,
    ),
    (
        errors.ReviewNotFoundError,
        "run {project_id} has no review {review_id}",
        "`ramify review list {project_id} --all` lists them",
        ExitCode.NOT_FOUND,
    ),
    (errors.NotFoundError, "", "", ExitCode.NOT_FOUND),
    (
        errors.ProfileNotFoundError,
        "there is no profile {profile}",
        "`ramify stats` lists the profiles",
        ExitCode.USAGE,
    ),
    (errors.InvalidRequestError, "{field}: {problem}", "", ExitCode.USAGE),
    (errors.InvalidMutationError, "", "", ExitCode.USAGE),
    (
        errors.ProjectExistsError,
        "the id {project_id} is or was in use",
        "choose another, ids are never reused",
        ExitCode.REFUSED,
    ),
    (
        errors.ProjectEndedError,
        "run {project_id} has ended",
        "`ramify show {project_id}` has its result",
        ExitCode.REFUSED,
    ),
    (errors.ReviewClosedError, "", "`ramify review show ID REVIEW` has it all", ExitCode.REFUSED),
    (errors.CommandRefusedError, "", "", ExitCode.REFUSED),
    (
        errors.ProjectActiveError,
        "run {project_id} is {state} and in use",
        "`ramify cancel {project_id} --wait` ends it",
        ExitCode.REFUSED,
    ),
    (
        errors.PlanNotAllowedError,
        "",
        "its --allow-plans decides; by default plans run on loopback only",
        ExitCode.REFUSED,
    ),
    (
        errors.LeaseHeldError,
        "run {project_id} is held by {holder}",
        "try again when its holder is done",
        ExitCode.REFUSED,
    ),
    (errors.VersionConflictError, "", "try again", ExitCode.REFUSED),
    (
        errors.RevisionCompactedError,
        "the history up to revision {compacted_revision} is gone",
        "name a later revision, or none",
        ExitCode.REFUSED,
    ),
    (
        errors.RevisionAheadError,
        "there is no revision {revision} yet, the latest is {head_revision}",
        "name an earlier one, or none",
        ExitCode.REFUSED,
    ),
    (
        errors.DamagedFileError,
        "the file is damaged, incomplete or of another kind: {problem} (at byte {offset})",
        "nothing was stored",
        ExitCode.ERROR,
    ),
    (errors.CorruptRecordError, "", "the log of state_svc names the place", ExitCode.ERROR),
    (
        errors.StoreUnavailableError,
        "",
        "is state_svc running? its log says why",
        ExitCode.UNREACHABLE,
    ),
    (errors.ServerDrainingError, "", "try again when it is back", ExitCode.UNREACHABLE),
    (errors.LimitReachedError, "{limit} is reached: {most}", "{remedy}", ExitCode.REFUSED),
    (errors.OverloadedError, "", "try again later", ExitCode.UNREACHABLE),
    (
        errors.UnavailableError,
        "",
        "is it running? `ramify up` starts both services",
        ExitCode.UNREACHABLE,
    ),
    (
        errors.DeadlineError,
        "",
        "try again; the log of the service may say why",
        ExitCode.UNREACHABLE,
    ),
    (errors.InternalError, "", "the log of the service has the cause", ExitCode.ERROR),
)

#: The calls that an orchestrator's answers name, as commands.
_COMMANDS = (
    (re.compile(r"\b(Retry|Replan|Cancel)Node ([\w.~-]*[\w~-])"), "`ramify {0} {run} {1}`"),
    (re.compile(r"\b(Resume|Pause|Cancel)Project\b"), "`ramify {0} {run}`"),
    (re.compile(r"\b(Fork)Project\b"), "`ramify {0} {run} --at REVISION`"),
)
_RUN = "\0"  #: stands for the run until all calls are found: it may be named as one of them
_VALUES = re.compile(r" \((\w+)=.*\)$")


def explain(error: errors.RamifyError) -> CliError:
    """Return what to show for a failure of the SDK."""
    for kind, says, remedy, code in _TABLE:
        if isinstance(error, kind):
            message = _fill(says, error.metadata) or _plain(error)
            named = {"project_id": "ID", **error.metadata}
            return CliError(message, _fill(remedy, named) or remedy, code)
    return CliError(error.message)


def _fill(text: str, metadata: Mapping[str, str]) -> str:
    """Return a text with its values, or nothing if one is missing."""
    try:
        return text.format_map(metadata)
    except KeyError:
        return ""


def _plain(error: errors.RamifyError) -> str:
    """Return the server's words, without the values behind them, its calls as commands."""
    values = _VALUES.search(error.message)
    message = error.message
    if values is not None and values[1] in error.metadata:
        message = message[: values.start()]
    for call, command in _COMMANDS:

        def typed(found: re.Match[str], command: str = command) -> str:
            name, *nodes = found.groups()
            return command.format(name.lower(), *nodes, run=_RUN)

        message = call.sub(typed, message)
    return message.replace(_RUN, error.metadata.get("project_id", "ID"))
