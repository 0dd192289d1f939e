"""Entry point: `python -m orchestrator_svc`. The only place that ends the process."""

from __future__ import annotations

import os
import sys

# Set before grpc is imported: its core prints connection noise otherwise.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import uvloop

from orchestrator_svc import app, config, logs
from orchestrator_svc.errors import RamifyError, leaves


def main() -> int:
    """Run the service; return the exit code."""
    try:
        settings = config.load_config()
        logs.configure(settings.log_level)
        uvloop.run(app.run(settings))
    except* RamifyError as group:
        sys.stderr.write(f"orchestrator_svc: {next(leaves(group))}\n")
        code = 1
    else:
        code = 0
    return code


if __name__ == "__main__":
    sys.exit(main())
