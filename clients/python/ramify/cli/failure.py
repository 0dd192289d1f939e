"""What the user reads when the SDK raises: one line, a remedy and an exit code. Pure."""

from ramify import errors
from ramify.cli.exits import CliError, ExitCode

#: Most precise class first; the first that fits decides.
_TABLE: tuple[tuple[type[errors.RamifyError], str, ExitCode], ...] = (
    (errors.ProjectNotFoundError, "`ramify ls` lists the runs there are", ExitCode.NOT_FOUND),
    (errors.NodeNotFoundError, "`ramify show ID` lists its nodes", ExitCode.NOT_FOUND),
    (errors.ReviewNotFoundError, "`ramify review list --all` lists them", ExitCode.NOT_FOUND),
    (errors.NotFoundError, "", ExitCode.NOT_FOUND),
    (errors.ProfileNotFoundError, "`ramify stats` lists the profiles", ExitCode.USAGE),
    (errors.InvalidRequestError, "", ExitCode.USAGE),
    (errors.InvalidMutationError, "", ExitCode.USAGE),
    (errors.ProjectExistsError, "choose another --project, ids are never reused", ExitCode.REFUSED),
    (errors.ProjectEndedError, "`ramify show ID` has its result", ExitCode.REFUSED),
    (errors.ReviewClosedError, "`ramify review show ID REVIEW` has it all", ExitCode.REFUSED),
    (errors.CommandRefusedError, "", ExitCode.REFUSED),
    (errors.ProjectActiveError, "`ramify cancel ID --wait` ends it", ExitCode.REFUSED),
    (
        errors.PlanNotAllowedError,
        "its --allow-plans decides; by default plans run on loopback only",
        ExitCode.REFUSED,
    ),
    (errors.LeaseHeldError, "try again when its holder is done", ExitCode.REFUSED),
    (errors.VersionConflictError, "try again", ExitCode.REFUSED),
    (
        errors.RevisionCompactedError,
        "leave out --after to begin with a snapshot",
        ExitCode.REFUSED,
    ),
    (
        errors.RevisionAheadError,
        "the store holds less than you have seen; leave out --after to begin with a snapshot",
        ExitCode.REFUSED,
    ),
    (errors.DamagedFileError, "nothing was stored", ExitCode.ERROR),
    (errors.CorruptRecordError, "the log of state_svc names the place", ExitCode.ERROR),
    (errors.StoreUnavailableError, "the log of state_svc says why", ExitCode.UNREACHABLE),
    (errors.ServerDrainingError, "try again when it is back", ExitCode.UNREACHABLE),
    (errors.OverloadedError, "try again later", ExitCode.UNREACHABLE),
    (
        errors.UnavailableError,
        "is it running? `ramify up` starts both services",
        ExitCode.UNREACHABLE,
    ),
    (errors.DeadlineError, "try again; the log of the service may say why", ExitCode.UNREACHABLE),
    (errors.InternalError, "the log of the service has the cause", ExitCode.ERROR),
)


def explain(error: errors.RamifyError) -> CliError:
    """Return what to show for a failure of the SDK."""
    for kind, remedy, code in _TABLE:
        if isinstance(error, kind):
            return CliError(error.message, remedy, code)
    return CliError(error.message)
