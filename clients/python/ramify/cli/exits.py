"""How the command ends: exit codes, and errors that say what to do."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of `ramify` means; documented in `ramify --help`."""

    OK = 0  #: done; for `run` and `watch`: the run COMPLETED
    ERROR = 1  #: anything not listed here
    USAGE = 2  #: the command line is wrong, or a request was refused as invalid
    NOT_FOUND = 3  #: no such project or node
    RUN_FAILED = 4
    RUN_PARTIAL = 5
    RUN_CANCELLED = 6
    UNREACHABLE = 7  #: a service cannot be reached or does not answer in time
    REFUSED = 8  #: the present state does not allow it, for example cancelling an ended run
    SERVICE_DIED = 9  #: `up`: a service did not start, or ended by itself
    READER_GONE = 141  #: nobody reads the output any more, as in `ramify ls | head -1`
    INTERRUPTED = 130  #: Ctrl-C; a run that was followed goes on


class CliError(Exception):
    """The command cannot go on. Shown as one line with its remedy, never as a traceback."""

    def __init__(self, message: str, remedy: str = "", code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code
