"""Entry point: `python -m state_svc`. The only place that ends the process."""

from __future__ import annotations

import os
import sys

# Set before grpc is imported: its core prints connection noise otherwise, also beside our own
# line about an address in use.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import uvloop

from state_svc import admin, app, config, logs
from state_svc.errors import RamifyError


def main() -> int:
    """Run the service, or a command on a data directory; return the exit code."""
    if sys.argv[1:2] and sys.argv[1] in admin.COMMANDS:
        from state_svc.admin import commands  # the service has no use for them

        return commands.main(sys.argv[1:])
    try:
        settings = config.load()
        logs.configure(settings.log_level)
        uvloop.run(app.run(settings))
    except* RamifyError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.stderr.write(f"state_svc: {error}\n")
        return_code = 1
    else:
        return_code = 0
    return return_code


if __name__ == "__main__":
    sys.exit(main())
