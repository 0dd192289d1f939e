"""`python -m state_svc check` and `restore`: arguments, output and exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import apsw

from state_svc.admin.check import Report, check_file
from state_svc.admin.progress import StderrProgress
from state_svc.admin.restore import restore as make_store
from state_svc.errors import RamifyError
from state_svc.store.data_file import DataFile, try_lock
from state_svc.store.sqlite import FILE_NAME, LOCK_NAME

OK, FAILED, USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run an administrative command; return its exit code."""
    arguments = _parser().parse_args(argv)
    if argv[0] == "check":
        return check(arguments.directory, as_json=arguments.json)
    return restore(arguments.file, arguments.directory)


def check(directory: Path, *, as_json: bool) -> int:
    """Check the store in a directory and print what is wrong with it."""
    path = directory / FILE_NAME
    if not path.is_file():
        sys.stderr.write(f"check: there is no store in {directory}: {FILE_NAME} is missing\n")
        return USAGE
    report = Report()
    with try_lock(directory / LOCK_NAME) as stopped:
        report.live = not stopped
        if report.live:
            sys.stderr.write(
                "check: the store is in use; each project is checked as it is at one moment\n"
            )
        try:
            with DataFile(path) as data:
                check_file(data, report, StderrProgress("check"))
        except apsw.Error as error:
            sys.stderr.write(f"check: {path} cannot be opened: {error}\n")
            return USAGE
    document = {"data": str(directory), **dataclasses.asdict(report)}
    lines = [str(problem) for problem in report.problems] + [_summary(report)]
    sys.stdout.write((json.dumps(document) if as_json else "\n".join(lines)) + "\n")
    return FAILED if report.problems else OK


def restore(backup: Path, directory: Path) -> int:
    """Make a store from a backup, in a directory of its own."""
    try:
        restored = make_store(backup, directory, StderrProgress("restore"))
    except (RamifyError, OSError) as error:
        sys.stderr.write(f"restore: {error}\n")
        return FAILED
    sys.stdout.write(
        f"restored {directory} from store {restored.from_store_id};"
        f" it is store {restored.store_id} now\n{_summary(restored.report)}\n"
    )
    return OK


def _summary(report: Report) -> str:
    payloads = f", {_count(report.payloads, 'payload')}" if report.payloads else ""
    return (
        f"{_count(report.projects, 'project')}, {_count(report.revisions, 'revision')} in"
        f" {_count(report.segments, 'segment')}, {_count(report.snapshots, 'snapshot')},"
        f" {_count(report.nodes, 'node')}{payloads}: {_count(len(report.problems), 'problem')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}" if number else f"no {noun}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m state_svc")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "check",
        help="verify every record of a store",
        description="Verifies every record of a store: checksums, the row of revisions, and that"
        " snapshots and segments give the same projects. It writes nothing; the store may be"
        " in use.",
        epilog="Exit codes: 0 no problem, 1 problems, 2 no such store or wrong arguments.",
    )
    command.add_argument("directory", metavar="DIR", type=Path, help="data directory")
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command = commands.add_parser(
        "restore",
        help="make a store from a backup",
        description="Makes a store from a backup that `ramify backup` has written. The whole file"
        " and the store in it are verified first; then the store appears in DIR at once. Its id"
        " and the uids of its projects are new, so that clients notice.",
        epilog="DIR must be empty or not exist: nothing is ever replaced. To replace a store, stop"
        " state_svc and move its directory away. Exit codes: 0 done, 1 refused, 2 wrong arguments.",
    )
    command.add_argument("file", metavar="FILE", type=Path, help="the backup")
    command.add_argument("directory", metavar="DIR", type=Path, help="data directory to make")
    return parser
