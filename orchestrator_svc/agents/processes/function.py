"""The life of a child that runs a Python function: forked from the host, never returns."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import signal
import sys
import traceback
from typing import NoReturn

from orchestrator_svc.agents.processes import system
from orchestrator_svc.agents.processes.wire import Frame

MAX_VALUE_BYTES = 1 << 20  #: of a returned value as JSON
_MAX_MESSAGE_CHARS = 1_000
_MAX_FD = 4_096  #: the host has a few per child


def run_function(
    frame: Frame,
    environment: dict[str, str],
    cwd: str | None,
    fds: tuple[int, int, int, int],
    host: int,
) -> NoReturn:
    """Call `module:function` and exit: 0 when it returned, 1 otherwise.

    The last of `fds` takes the outcome as JSON: `{"value": …}` or `{"error": "Type: text"}`.
    """
    code = 1
    try:
        system.write_command_line(f"ramify {frame['function']}")  # or it is taken for the host
        os.setsid()
        system.die_with(host)()
        _take_over(fds, environment, cwd)
        answer = _call(frame)
        with os.fdopen(3, "wb", closefd=False) as outcome:
            outcome.write(json.dumps(answer).encode())
        code = 0 if "value" in answer else 1
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the function may have closed it
                stream.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _take_over(
    fds: tuple[int, int, int, int], environment: dict[str, str], cwd: str | None
) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    high = [os.dup(fd) for fd in fds]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(4, _MAX_FD)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(0, "r", closefd=False),
        os.fdopen(1, "w", buffering=1, closefd=False),  # what is printed is seen while it runs
        os.fdopen(2, "w", buffering=1, closefd=False, errors="backslashreplace"),
    )
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    sys.path.insert(0, os.getcwd())


def _call(frame: Frame) -> dict[str, object]:
    name = str(frame["function"])
    module_name, _, attribute = name.partition(":")
    args, kwargs = frame.get("args") or [], frame.get("kwargs") or {}
    assert isinstance(args, list)
    assert isinstance(kwargs, dict)
    try:
        target: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
        if not callable(target):
            return {"error": f"{name} cannot be called"}
        value = target(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except SystemExit as error:
        if error.code in (None, 0):
            return {"value": None}
        return {"error": f"SystemExit: {error.code}"}
    except BaseException as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARS]}
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return {"error": f"the value of {name} is no JSON: {error}"[:_MAX_MESSAGE_CHARS]}
    if size > MAX_VALUE_BYTES:
        return {"error": f"the value of {name} has {size} bytes, at most {MAX_VALUE_BYTES}"}
    return {"value": value}
