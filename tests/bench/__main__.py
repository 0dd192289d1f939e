"""Runs the load scenarios. `make bench`, or `python -m tests.bench --only state --seconds 3`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Coroutine

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Before gRPC is loaded: it would start its threads again in each child that uvloop forks, and of
# those one in twenty died before it became the process that was to be started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import uvloop

from tests.bench import echo, fanout, orchestrator, scale, state, store
from tests.bench.report import Report

Scenario = Callable[[Report, float], Coroutine[None, None, None]]


def scenarios() -> dict[str, Scenario]:
    """Return the scenarios by name, in the order they run."""
    return {
        "echo": echo.frames,
        "throughput": state.throughput,
        "results": store.results,
        "interleaved": store.interleaved,
        "rows": store.row_per_mutation,
        "latency": state.ack_latency,
        "fanout": fanout.fan_out,
        "fanout-stopped": fanout.stopped,
        "fanout-manners": fanout.manners,
        "snapshot": fanout.snapshot,
        "large": store.large,
        "nodes": orchestrator.no_op_nodes,
        "sizes": scale.sizes,
        "resume": scale.resume,
        "fairness": scale.fairness,
        "hops": orchestrator.hops,
        "takeover": orchestrator.takeover,
    }


def main() -> int:
    """Run the chosen scenarios and print a table for docs/benchmarks.md."""
    known = scenarios()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="load per figure (default: 5)")
    parser.add_argument("--only", action="append", choices=sorted(known), help="may be repeated")
    parser.add_argument("--markdown", action="store_true", help="print the table again as Markdown")
    options = parser.parse_args()
    report = Report()
    sys.stdout.write(f"python {platform.python_version()}, {os.cpu_count()} cores\n")
    for name, scenario in known.items():
        if not options.only or name in options.only:
            uvloop.run(scenario(report, options.seconds))
    if options.markdown:
        sys.stdout.write("\n" + report.markdown() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
